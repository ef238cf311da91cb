package verify

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// FuzzTmpfs gives the files of a tmpfs to the node's tar as they come out of the check: only what is
// allowed, below the archive's root, and nothing through a link.
func FuzzTmpfs(f *testing.F) {
	const name = "tmpfs-dev-3.tar.gz.img"
	for _, add := range [][]tar.Header{
		{{Typeflag: tar.TypeDir, Name: "./"}, {Typeflag: tar.TypeReg, Name: "./a", Size: 1, Mode: 0o644}},
		{{Typeflag: tar.TypeDir, Name: "./"}, {Typeflag: tar.TypeSymlink, Name: "./l", Linkname: "/etc"}, {Typeflag: tar.TypeReg, Name: "./l/x"}},
		{{Typeflag: tar.TypeDir, Name: "./"}, {Typeflag: tar.TypeChar, Name: "./null", Devmajor: 1, Devminor: 3}, {Typeflag: tar.TypeBlock, Name: "./sda", Devmajor: 8}},
		{{Typeflag: tar.TypeDir, Name: "./d/"}, {Typeflag: tar.TypeReg, Name: "./d/f", Mode: 0o4755}, {Typeflag: tar.TypeLink, Name: "./h", Linkname: "./d/f"}},
		{{Typeflag: tar.TypeReg, Name: "../x"}, {Typeflag: tar.TypeReg, Name: "/x"}, {Typeflag: tar.TypeFifo, Name: "./p"}},
	} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range add {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
			if _, err := w.Write(make([]byte, h.Size)); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(buf.Bytes(), true)
	}
	f.Add([]byte{0x1f, 0x8b}, false)
	f.Fuzz(func(t *testing.T, data []byte, zip bool) {
		if zip { // mutations of what is compressed seldom get further
			var buf bytes.Buffer
			w := gzip.NewWriter(&buf)
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			data = buf.Bytes()
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		images, err := criu.OpenImages(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer images.Close()
		v := &verifier{budget: budget{ctx: t.Context()}, images: images, spec: &specs.Spec{Linux: &specs.Linux{}}, report: &Report{}}
		out, _, err := v.repack(name, "/dev", nil)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v", err)
			}
			return
		}
		if v.report.Total == 0 { // else it is refused
			requireHarmless(t, out)
		}
	})
}

// requireHarmless reads the archive that tar gets.
func requireHarmless(t *testing.T, archive []byte) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		p := path.Clean(h.Name)
		_, twice := kinds[p]
		switch {
		case twice, !filepath.IsLocal(p), !strings.HasPrefix(h.Name, "./"):
			t.Errorf("entry %q", h.Name)
		case p != "." && path.Dir(p) != "." && kinds[path.Dir(p)] != tar.TypeDir:
			t.Errorf("%q is in no directory", h.Name)
		case h.Typeflag == tar.TypeBlock, h.Typeflag == tar.TypeChar && h.Devmajor != 1 && h.Devmajor != 5 && h.Devmajor != 10 && h.Devmajor != 136:
			t.Errorf("%q is device %d:%d", h.Name, h.Devmajor, h.Devminor)
		case h.Typeflag != tar.TypeDir && h.Mode&0o6000 != 0:
			t.Errorf("%q has mode %o", h.Name, h.Mode)
		case h.Typeflag == tar.TypeLink && kinds[path.Clean(h.Linkname)] != tar.TypeReg:
			t.Errorf("%q is a link to %q", h.Name, h.Linkname)
		}
		for key := range h.PAXRecords {
			if strings.Contains(key, "xattr") {
				t.Errorf("%q has %q", h.Name, key)
			}
		}
		kinds[p] = h.Typeflag
	}
}
