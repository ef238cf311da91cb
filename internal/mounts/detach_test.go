package mounts

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// What is mounted at and below the directories goes, also where one mount hides another, and what is beside them stays.
func TestDetach(t *testing.T) {
	top := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(top, link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for unix.Unmount(filepath.Join(top, "other"), 0) == nil {
		}
	})
	for _, name := range []string{"a", "a/below", "a", "b", "other"} {
		dir := filepath.Join(top, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("test", dir, "tmpfs", 0, "size=64k"); err != nil {
			t.Fatal(err)
		}
	}
	at := map[string]string{}
	for _, name := range []string{"a", "b", "none"} {
		real, err := RealPath(filepath.Join(link, name))
		if err != nil || real != filepath.Join(top, name) {
			t.Errorf("%s: %q, %v", name, real, err)
		}
		at[real] = name
	}
	if kept, err := Detach(at); err != nil || len(kept) > 0 {
		t.Errorf("kept %v, %v", kept, err)
	}
	left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(top))
	if err != nil || len(left) != 1 || left[0].Mountpoint != filepath.Join(top, "other") {
		t.Errorf("mounted: %v, %v", left, err)
	}
}
