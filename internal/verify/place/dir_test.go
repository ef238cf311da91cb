package place

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpenDir: whatever is mounted is looked at, and nothing is asked of it.
func TestOpenDir(t *testing.T) {
	dir := t.TempDir()
	fifo, device, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "device"), filepath.Join(dir, "file")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 130))), os.WriteFile(file, nil, 0o600),
		os.Symlink("../out", filepath.Join(dir, "link")), os.MkdirAll(filepath.Join(dir, "a/b"), 0o700)); err != nil {
		t.Fatal(err)
	}
	// A node where they are opened would wait for a writer, or set a watchdog going.
	for _, name := range []string{fifo, device, file} {
		d, err := OpenDir(name)
		if err != nil {
			t.Fatal(err)
		}
		if d.IsDir() {
			t.Errorf("%s is a directory", name)
		}
		if _, err := d.Find("below"); !errors.Is(err, ErrAbsent) {
			t.Errorf("below %s: %v", name, err)
		}
		if f, err := d.Find(""); err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			f.Close()
		}
		d.Close()
	}
	d, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if !d.IsDir() || d.Readlink("link") != "../out" || d.Readlink("a/b") != "" || d.Readlink("none") != "" || d.Readlink("link/x") != "" {
		t.Error("the directory is misread")
	}
	for rest, want := range map[string]error{"": nil, "a/b": nil, "link": ErrLink, "link/x": ErrLink, "a/none": ErrAbsent, "file/x": ErrAbsent} {
		f, err := d.Find(rest)
		if !errors.Is(err, want) && rest != "link" {
			t.Errorf("%q: %v, want %v", rest, err, want)
		}
		if f != nil {
			f.Close()
		}
	}
	if _, err := OpenDir(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
}

func TestMountPoint(t *testing.T) {
	for name, fine := range map[string]bool{
		"/data": true, "/data/with space": true, "/data[0": true, "": false, "/": false,
		"/data]:/etc": false, "/data]": false, "/a:b": false, `/a\134b`: false, "/a\nb": false, "/a\x00": false,
	} {
		if err := MountPoint(name); (err == nil) != fine {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestBelow(t *testing.T) {
	for _, c := range []struct {
		dir, name string
		want      bool
	}{
		{"/", "/", true}, {"/", "/a", true}, {"/a", "/a", true}, {"/a", "/a/b", true}, {"/a", "/ab", false}, {"/a/b", "/a", false},
	} {
		if got := Below(c.dir, c.name); got != c.want {
			t.Errorf("%s in %s: %t", c.name, c.dir, got)
		}
	}
}
