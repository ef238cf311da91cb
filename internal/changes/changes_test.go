package changes

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// image is what the container began with.
func image(t *testing.T, dir string) {
	t.Helper()
	at := time.Unix(1700000000, 0)
	check(t, os.MkdirAll(filepath.Join(dir, "etc/sub"), 0o755), os.Mkdir(filepath.Join(dir, "replaced"), 0o755),
		os.Mkdir(filepath.Join(dir, "gone"), 0o755))
	for _, name := range []string{"etc/kept", "etc/changed", "etc/deleted", "etc/mode", "etc/sub/deep", "replaced/old",
		"gone/x", "was-file", "linked", "samesize"} {
		file := filepath.Join(dir, name)
		check(t, os.WriteFile(file, []byte("image "+name), 0o644), os.Chtimes(file, at, at))
	}
	check(t, os.Link(filepath.Join(dir, "linked"), filepath.Join(dir, "linked-twin")),
		os.Symlink("etc/kept", filepath.Join(dir, "link")))
}

// run is what the container does.
func run(t *testing.T, dir string) {
	t.Helper()
	p := func(name string) string { return filepath.Join(dir, name) }
	at := time.Unix(1700000000, 0)
	check(t,
		os.WriteFile(p("etc/changed"), []byte("other"), 0o644), os.Remove(p("etc/deleted")), os.Chmod(p("etc/mode"), 0o4711),
		os.RemoveAll(p("replaced")), os.Mkdir(p("replaced"), 0o711), os.WriteFile(p("replaced/new"), []byte("n"), 0o600),
		os.RemoveAll(p("gone")), os.Remove(p("was-file")), os.Mkdir(p("was-file"), 0o755),
		os.Remove(p("link")), os.Symlink("/nowhere", p("link")),
		// What only the content tells of.
		os.WriteFile(p("samesize"), []byte("IMAGE samesize"), 0o644), os.Chtimes(p("samesize"), at, at),
		os.MkdirAll(p("a/b/c"), 0o700), os.WriteFile(p("a/b/c/file"), bytes.Repeat([]byte("content"), 100_000), 0o640),
		os.Chown(p("a/b/c/file"), 1000, 3_000_000),
		os.Link(p("a/b/c/file"), p("a/again")), os.WriteFile(p("empty"), nil, 0o600), os.WriteFile(p("capable"), nil, 0o755),
		unix.Mkfifo(p("fifo"), 0o600), unix.Mknod(p("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
		os.WriteFile(p(strings.Repeat("x", 255)), []byte("long"), 0o600), os.WriteFile(p("\xff\n é"), []byte("odd"), 0o600),
		unix.Setxattr(p("capable"), capability,
			[]byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
	)
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err, unix.Bind(l, &unix.SockaddrUnix{Name: p("socket")}), unix.Close(l))
}

// describe returns what is below a directory, by path.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	out, names := map[string]string{}, map[uint64]string{}
	check(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			return nil
		}
		path := strings.TrimPrefix(name, dir)
		text := fmt.Sprintf("%v %d:%d %d", fi.Mode(), st.Uid, st.Gid, st.Rdev)
		switch {
		case fi.Mode().IsRegular():
			data, rerr := os.ReadFile(name)
			if first, ok := names[st.Ino]; ok && st.Nlink > 1 {
				text += " also " + first
			}
			names[st.Ino] = path
			value := make([]byte, 100)
			n, _ := unix.Lgetxattr(name, capability, value)
			text, err = fmt.Sprintf("%s %d %q %x", text, fi.ModTime().Unix(), data, value[:max(n, 0)]), rerr
		case fi.Mode()&fs.ModeSymlink != 0:
			link, rerr := os.Readlink(name)
			text, err = text+" "+link, rerr
		}
		out[path] = text
		return err
	}))
	return out
}

// What is written makes of the image what the container had, whichever way it was read.
func TestComplete(t *testing.T) {
	dir := t.TempDir()
	p := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		check(t, os.Mkdir(p(d), 0o755))
	}
	image(t, p("lower"))
	overlay := mount.Mount{Type: "overlay", Source: "overlay",
		Options: []string{"lowerdir=" + p("lower"), "upperdir=" + p("upper"), "workdir=" + p("work")}}
	check(t, overlay.Mount(p("merged")))
	t.Cleanup(func() { _ = mount.UnmountAll(p("merged"), unix.MNT_DETACH) })
	run(t, p("merged"))
	want := describe(t, p("merged"))

	for name, write := range map[string]func(io.Writer) error{
		"overlay": func(w io.Writer) error { return WriteOverlay(t.Context(), w, p("upper"), false) },
		"between": func(w io.Writer) error { return WriteBetween(t.Context(), w, p("lower"), p("merged")) },
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			check(t, write(&out))
			root := t.TempDir()
			image(t, root)
			_, err := archive.Apply(t.Context(), root, bytes.NewReader(out.Bytes()))
			check(t, err)
			got := describe(t, root)
			for _, path := range slices.Sorted(maps.Keys(want)) {
				if got[path] != want[path] {
					t.Errorf("%q: got %.300s, want %.300s", path, got[path], want[path])
				}
			}
			for path := range got {
				if want[path] == "" {
					t.Errorf("%q: %.300s, is not there", path, got[path])
				}
			}
			if strings.Contains(out.String(), "image etc/kept") {
				t.Error("it has a file that did not change")
			}
		})
	}
}

// A new name of a file of the image is a name of that file after the restore.
func TestBetweenLinkToImage(t *testing.T) {
	for _, name := range []string{"a-before", "z-after"} {
		lower, root := t.TempDir(), t.TempDir()
		image(t, lower)
		image(t, root)
		check(t, os.Link(filepath.Join(root, "linked"), filepath.Join(root, name)))
		var out bytes.Buffer
		check(t, WriteBetween(t.Context(), &out, lower, root))
		target := t.TempDir()
		image(t, target)
		_, err := archive.Apply(t.Context(), target, &out)
		check(t, err)
		for _, other := range []string{"linked", "linked-twin"} {
			a, err := os.Stat(filepath.Join(target, name))
			b, err2 := os.Stat(filepath.Join(target, other))
			check(t, err, err2)
			if !os.SameFile(a, b) {
				t.Errorf("%s and %s are two files", name, other)
			}
		}
	}
}

func TestEnds(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WriteOverlay(ctx, io.Discard, dir, false); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if err := WriteBetween(ctx, io.Discard, t.TempDir(), dir); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// A path that no restore could make is refused, by name, and descriptors are bounded with it.
func TestTooDeep(t *testing.T) {
	root := t.TempDir()
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	check(t, err)
	for range 4096/2 + 10 {
		check(t, unix.Mkdirat(fd, "d", 0o700))
		next, err := unix.Openat(fd, "d", unix.O_PATH|unix.O_DIRECTORY, 0)
		check(t, err, unix.Close(fd))
		fd = next
	}
	check(t, unix.Close(fd))
	if err := WriteOverlay(t.Context(), io.Discard, root, false); !errdefs.IsFailedPrecondition(err) ||
		!strings.Contains(err.Error(), "d/d/d") {
		t.Errorf("error %v", err)
	}
	check(t, os.Rename(filepath.Join(root, "d/d/d/d/d/d/d/d/d/d/d/d"), filepath.Join(root, "e")),
		os.RemoveAll(filepath.Join(root, "d")))
	check(t, WriteOverlay(t.Context(), io.Discard, root, false))
}

// entries returns the headers of a tar.
func entries(t *testing.T, data []byte) map[string]*tar.Header {
	t.Helper()
	out := map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		check(t, err)
		out[h.Name] = h
	}
}
