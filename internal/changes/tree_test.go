package changes

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWriteTree(t *testing.T) {
	dir := t.TempDir()
	p := func(name string) string { return filepath.Join(dir, name) }
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	check(t, err)
	defer unix.Close(socket)
	check(t,
		os.Mkdir(p("sub"), 0o751), os.WriteFile(p("sub/file"), []byte("content"), 0o640), os.Chown(p("sub/file"), 1000, 2000),
		os.Link(p("sub/file"), p("twin")), os.Symlink("/etc/passwd", p("link")), unix.Mkfifo(p("fifo"), 0o600),
		unix.Mknod(p("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))), unix.Mknod(p("whiteout"), unix.S_IFCHR|0o600, 0),
		unix.Bind(socket, &unix.SockaddrUnix{Name: p("socket")}))
	var buf bytes.Buffer
	check(t, WriteTree(t.Context(), &buf, dir))
	var got []string
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		check(t, err)
		content, err := io.ReadAll(r)
		check(t, err)
		got = append(got, fmt.Sprintf("%s %c %o %d:%d %s%s", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, content))
	}
	want := []string{"fifo 6 600 0:0 ", "link 2 777 0:0 /etc/passwd", "sub/ 5 751 0:0 ",
		"sub/file 0 640 1000:2000 content", "twin 1 640 1000:2000 sub/file"}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
	if err := WriteTree(t.Context(), &buf, p("none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
	failing, err := os.Open("/dev/null")
	check(t, err)
	defer failing.Close()
	if err := WriteTree(t.Context(), failing, dir); err == nil {
		t.Error("the writer fails")
	}
}
