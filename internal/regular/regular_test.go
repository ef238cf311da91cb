package regular

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "file"), []byte("abc"), 0o600),
		os.Symlink("file", filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
		os.Mkdir(filepath.Join(dir, "dir"), 0o700),
		unix.Mknod(filepath.Join(dir, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))),
	); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for what, open := range map[string]func(string) (*os.File, int64, error){
		"by path": func(name string) (*os.File, int64, error) { return Open(filepath.Join(dir, name)) },
		"in root": func(name string) (*os.File, int64, error) { return OpenIn(root, name) },
	} {
		f, size, err := open("file")
		if err != nil || size != 3 {
			t.Fatalf("%s: %d bytes, %v", what, size, err)
		}
		if text, err := io.ReadAll(f); err != nil || string(text) != "abc" {
			t.Errorf("%s: %q, %v", what, text, err)
		}
		f.Close()
		for _, name := range []string{"link", "fifo", "dir", "device"} {
			if _, _, err := open(name); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "not a regular file") {
				t.Errorf("%s: %s: %v", what, name, err)
			}
		}
		if _, _, err := open("absent"); !errdefs.IsNotFound(err) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What takes the file's place between the look and the opening is not read.
func TestOpenWhatIsReplaced(t *testing.T) {
	dir := t.TempDir()
	name, other := filepath.Join(dir, "file"), filepath.Join(dir, "other")
	if err := errors.Join(os.WriteFile(name, nil, 0o600), os.WriteFile(other, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for what, replace := range map[string]func() error{
		"another file": func() error { return os.Rename(other, name) },
		"a link":       func() error { return errors.Join(os.Remove(name), os.Symlink("/etc/passwd", name)) },
	} {
		_, _, err := opened(func() (fs.FileInfo, error) {
			fi, err := os.Lstat(name)
			return fi, errors.Join(err, replace())
		}, func() (*os.File, error) { return os.OpenFile(name, flags, 0) })
		if err == nil {
			t.Errorf("%s is read", what)
		}
		if err := errors.Join(os.Remove(name), os.WriteFile(name, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReader(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := Reader(ctx, strings.NewReader("abcdef"))
	p := make([]byte, 3)
	if n, err := r.Read(p); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	cancel()
	if n, err := r.Read(p); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d, %v", n, err)
	}
}
