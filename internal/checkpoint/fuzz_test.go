package checkpoint

import (
	"archive/tar"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
)

// FuzzUnpack checks that whatever an archive holds, there is nothing but files
// and directories within the limits, or an error and nothing.
func FuzzUnpack(f *testing.F) {
	plain := tarball(f, crioFiles().entries()...)
	for _, c := range []compression.Compression{compression.Uncompressed, compression.Gzip, compression.Zstd} {
		f.Add(compressed(f, plain, c))
	}
	f.Add(tarball(f, dir("./"), file("./a", "x"), dir("d"), file("d/b", "y")))
	f.Add(tarball(f, special("a", tar.TypeSymlink, "/etc"), file("a/b", "x")))
	f.Add(tarball(f, file("../a", "x")))
	f.Add([]byte{})

	l := Limits{ArchiveBytes: 64 << 10, Entries: 64}
	f.Fuzz(func(t *testing.T, data []byte) {
		dst := filepath.Join(t.TempDir(), "dst")
		if err := os.Mkdir(dst, 0o700); err != nil {
			t.Fatal(err)
		}
		err := Unpack(t.Context(), stored(t, data), dst, l)
		var entries int
		var bytes int64
		werr := filepath.WalkDir(dst, func(name string, d fs.DirEntry, err error) error {
			if err != nil || name == dst {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			entries++
			if fi.Mode().IsRegular() {
				bytes += fi.Size()
			} else if !fi.IsDir() {
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
		if entries > l.Entries || bytes > l.ArchiveBytes {
			t.Errorf("%d entries, %d bytes", entries, bytes)
		}
		// Nothing beside the directory, and the archive's is another.
		if left, err := os.ReadDir(filepath.Dir(dst)); err != nil || len(left) != 1 {
			t.Errorf("beside the directory: %v, %v", left, err)
		}
	})
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
