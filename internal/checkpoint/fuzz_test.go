package checkpoint

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
)

// FuzzUnpack checks that whatever an archive holds, there is nothing but files
// and directories within the limits, or an error and nothing. What is unpacked is what another reader of
// the archive finds in it.
func FuzzUnpack(f *testing.F) {
	plain := tarball(f, crioFiles().entries()...)
	for _, c := range []compression.Compression{compression.Gzip, compression.Zstd} {
		f.Add(compressed(f, plain, c), byte(0))
	}
	for _, data := range [][]byte{
		plain,
		tarball(f, dir("./"), file("./a", "x"), dir("d"), file("d/b", "y")),
		tarball(f, special("a", tar.TypeSymlink, "/etc"), file("a/b", "x")),
		tarball(f, special("a", tar.TypeLink, "b"), special("c", tar.TypeFifo, ""), special("d", tar.TypeChar, "")),
		tarball(f, file("../a", "x")),
		tarball(f, file("a", "x"), file("./a", "y")),
		{},
	} {
		for with := range byte(3) {
			f.Add(data, with) // a mutation of what is compressed already seldom gets further
		}
	}

	l := Limits{ArchiveBytes: 64 << 10, Entries: 64}
	f.Fuzz(func(t *testing.T, data []byte, with byte) {
		content := data
		switch with % 3 {
		case 1:
			data = compressed(t, data, compression.Gzip)
		case 2:
			data = compressed(t, data, compression.Zstd)
		}
		dst := filepath.Join(t.TempDir(), "dst")
		if err := os.Mkdir(dst, 0o700); err != nil {
			t.Fatal(err)
		}
		err := Unpack(t.Context(), stored(t, data), dst, l)
		var entries int
		var size int64
		werr := filepath.WalkDir(dst, func(name string, d fs.DirEntry, err error) error {
			if err != nil || name == dst {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			entries++
			if fi.Mode() == 0o600 {
				size += fi.Size()
			} else if fi.Mode() != fs.ModeDir|0o700 {
				t.Errorf("%s: %v", name, fi.Mode())
			}
			return nil
		})
		if werr != nil {
			t.Fatal(werr)
		}
		if err != nil && entries > 0 {
			t.Errorf("%d entries left after %v", entries, err)
		}
		if err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsResourceExhausted(err) {
			t.Errorf("without a class: %v", err)
		}
		if entries > l.Entries || size > l.ArchiveBytes {
			t.Errorf("%d entries, %d bytes", entries, size)
		}
		if err == nil {
			sameAsTar(t, content, dst)
		}
		// Nothing beside the directory, and the archive's is another.
		if left, err := os.ReadDir(filepath.Dir(dst)); err != nil || len(left) != 1 {
			t.Errorf("beside the directory: %v, %v", left, err)
		}
	})
}

// sameAsTar compares what was unpacked with a plain tar. Of one that is compressed itself it says nothing.
func sameAsTar(t *testing.T, content []byte, dst string) {
	t.Helper()
	if compression.DetectCompression(content) != compression.Uncompressed {
		return
	}
	seen := map[string]bool{}
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("accepted, and cannot be read: %v", err)
		}
		name := filepath.Clean(h.Name)
		if !filepath.IsLocal(name) || seen[name] {
			t.Errorf("entry %q was accepted", h.Name)
		}
		seen[name] = true
		want, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			if fi, err := os.Lstat(filepath.Join(dst, name)); err != nil || !fi.IsDir() {
				t.Errorf("directory %q: %v, %v", name, fi, err)
			}
		case tar.TypeReg, tar.TypeGNUSparse:
			if got, err := os.ReadFile(filepath.Join(dst, name)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("file %q: %q, %v, want %q", name, got, err, want)
			}
		default:
			t.Errorf("entry %q of type %q was accepted", h.Name, h.Typeflag)
		}
	}
}

// FuzzOpen checks that whatever the JSON files hold, there is usable metadata or
// an error with a class.
func FuzzOpen(f *testing.F) {
	for _, c := range []files{containerdFiles(), crioFiles(), podmanFiles()} {
		f.Add(c["config.dump"], c["spec.dump"], c["checkpoint/descriptors.json"], c["deleted.files"])
	}
	f.Add(`{"rootfsImageRef":"x"}`, `{"annotations":{"io.container.manager":"cri-o"}}`, `[]`, `["/.."]`)
	f.Add(`null`, `null`, `null`, `null`)

	f.Fuzz(func(t *testing.T, config, spec, descriptors, deleted string) {
		dir := containerdFiles().with("config.dump", config).with("spec.dump", spec).
			with("checkpoint/descriptors.json", descriptors).with("deleted.files", deleted).tree(t)
		c, err := Open(dir, DefaultLimits())
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("class: %v", err)
			}
			return
		}
		defer c.Close()
		m := c.Metadata
		if again, err := contentReference(m.Base.Reference, ""); err != nil || again != m.Base.Reference {
			t.Errorf("base %q: %q, %v", m.Base.Reference, again, err)
		}
		if m.Spec.Process == nil || m.Spec.Root == nil || m.Spec.Linux == nil || len(m.Stdio) > 3 {
			t.Errorf("%+v", m)
		}
		for _, s := range []string{m.ID, m.Name, m.Runtime, m.Base.Name} {
			if strings.ContainsAny(s, "\n\x00\x1b") || len(s) > maxText {
				t.Errorf("%q", s)
			}
		}
		names, err := c.DeletedFiles()
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("class: %v", err)
		}
		for _, name := range names {
			if name == "/" || !filepath.IsAbs(name) || filepath.Clean(name) != name {
				t.Errorf("deleted %q", name)
			}
		}
	})
}
