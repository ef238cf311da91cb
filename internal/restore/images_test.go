package restore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/mounts"
)

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// CRIU reads the replaced images, and only of what was verified; a second try after a restart
// of containerd finds the covers of the first.
func TestCoverImages(t *testing.T) {
	s := &Store{Dirs: Dirs{Root: t.TempDir(), State: t.TempDir()}}
	r := &Record{ID: NewID(), Image: "ck"}
	dir := t.TempDir()
	t.Cleanup(func() { _ = mounts.Below(dir) })
	writeFiles(t, dir, map[string]string{"core-1.img": "theirs", "mm-1.img": "same", "pages-1.img": "page"})
	d, err := Digest(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	r.ImagesDigest = d.String()
	if err := s.WriteReplaced(r, map[string][]byte{"core-1.img": []byte("ours")}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.coverImages(t.Context(), r, dir); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"core-1.img": "ours", "mm-1.img": "same"} {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
	}
	if err := mounts.Below(dir); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"core-1.img": "theirs!", "new.img": ""} {
		t.Run("changed "+name, func(t *testing.T) {
			was, werr := os.ReadFile(filepath.Join(dir, name))
			writeFiles(t, dir, map[string]string{name: content})
			err := s.coverImages(t.Context(), r, dir)
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "changed") {
				t.Errorf("error %v, want failed precondition", err)
			}
			if werr != nil {
				_ = os.Remove(filepath.Join(dir, name))
			} else {
				writeFiles(t, dir, map[string]string{name: string(was)})
			}
		})
	}
	if err := s.coverImages(t.Context(), r, dir); err != nil {
		t.Errorf("after all is as it was: %v", err)
	}
}

func TestWriteReplacedRefusesPaths(t *testing.T) {
	s := &Store{Dirs: Dirs{Root: t.TempDir()}}
	for _, name := range []string{"../x", "a/b", "/x", ""} {
		if err := s.WriteReplaced(&Record{ID: NewID()}, map[string][]byte{name: nil}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestDigest(t *testing.T) {
	sum := func(files map[string]string) string {
		dir := t.TempDir()
		writeFiles(t, dir, files)
		d, err := Digest(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
	base := sum(map[string]string{"a.img": "1", "pages-1.img": "xy"})
	for name, files := range map[string]map[string]string{
		"content":         {"a.img": "2", "pages-1.img": "xy"},
		"name":            {"b.img": "1", "pages-1.img": "xy"},
		"another file":    {"a.img": "1", "b.img": "", "pages-1.img": "xy"},
		"a file less":     {"a.img": "1"},
		"length of pages": {"a.img": "1", "pages-1.img": "xyz"},
	} {
		if sum(files) == base {
			t.Errorf("%s makes no difference", name)
		}
	}
	if sum(map[string]string{"a.img": "1", "pages-1.img": "zz"}) != base {
		t.Error("the content of pages is read")
	}
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "a.img")); err != nil {
		t.Fatal(err)
	}
	if _, err := Digest(t.Context(), dir); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a link: %v", err)
	}
}
