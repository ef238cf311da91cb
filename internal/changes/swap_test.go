package changes

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

const secret = "the node's secret"

// swapper exchanges two names without a pause, as another container of the pod can.
func swapper(t *testing.T, a, b string) (count *atomic.Int64) {
	t.Helper()
	count = &atomic.Int64{}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
			count.Add(1)
		}
	}()
	t.Cleanup(func() { close(stop); <-ended })
	return count
}

// Whatever is exchanged while the changes are read, nothing of the node gets into them, and nothing blocks. The tar has
// each name as one of the things it was.
func TestSwapped(t *testing.T) {
	for _, c := range []struct {
		name string
		// make makes what gets the name now and then, instead of a directory with a file, or a file.
		make func(node, other string) error
		file bool
		kind byte
	}{
		{"directory and link", os.Symlink, false, tar.TypeSymlink},
		{"file and link", func(node, other string) error { return os.Symlink(filepath.Join(node, "f"), other) }, true,
			tar.TypeSymlink},
		{"directory and FIFO", func(_, other string) error { return unix.Mkfifo(other, 0o600) }, false, tar.TypeFifo},
		{"file and FIFO", func(_, other string) error { return unix.Mkfifo(other, 0o600) }, true, tar.TypeFifo},
		{"file and device", func(_, other string) error {
			return unix.Mknod(other, unix.S_IFCHR|0o600,
				int(unix.Mkdev(1, 5)))
		}, true, tar.TypeChar},
	} {
		t.Run(c.name, func(t *testing.T) {
			// On a file system without synchronous work, so that names are exchanged often.
			dir, err := os.MkdirTemp("/dev/shm", "changes-") //nolint:usetesting // t.TempDir is on the disk
			check(t, err)
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			p := func(name string) string { return filepath.Join(dir, name) }
			check(t, os.MkdirAll(p("upper/d"), 0o755), os.Mkdir(p("node"), 0o755), os.Mkdir(p("lower"), 0o755),
				os.WriteFile(p("node/f"), []byte(secret), 0o600))
			name := p("upper/d")
			if c.file {
				name = p("upper/d/f")
			}
			check(t, os.WriteFile(p("upper/d/f"), []byte("the container's"), 0o600), c.make(p("node"), p("upper/other")))
			count := swapper(t, name, p("upper/other"))
			seen := map[byte]int{}
			for round := 0; round < 500 || count.Load() < 2000 || len(seen) < 2; round++ {
				check(t, t.Context().Err())
				var out bytes.Buffer
				if round%2 == 0 {
					check(t, WriteOverlay(t.Context(), &out, p("upper"), false))
				} else {
					check(t, WriteBetween(t.Context(), &out, p("lower"), p("upper")))
				}
				if bytes.Contains(out.Bytes(), []byte(secret)) {
					t.Fatal("a file of the node is in the changes")
				}
				list := entries(t, out.Bytes())
				for _, name := range []string{"d", "d/", "d/f"} {
					if h := list[name]; h != nil && (name == "d/f") == c.file {
						seen[h.Typeflag]++
						if h.Typeflag == tar.TypeReg && h.Size != int64(len("the container's")) {
							t.Fatalf("%s has %d bytes", name, h.Size)
						}
					}
				}
			}
			if seen[c.kind] == 0 {
				t.Errorf("seen %v, never %c", seen, c.kind)
			}
		})
	}
}

// A file that grows or shrinks while it is read is as long as its header says, so that the archive stays one.
func TestResized(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	check(t, os.WriteFile(file, make([]byte, 1<<20), 0o600))
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for size := int64(0); ; size = (size + 300_001) % (2 << 20) {
			select {
			case <-stop:
				return
			default:
				_ = os.Truncate(file, size)
			}
		}
	}()
	defer func() { close(stop); <-ended }()
	for range 200 {
		var out bytes.Buffer
		check(t, WriteOverlay(t.Context(), &out, dir, false))
		entries(t, out.Bytes()) // all of it can be read
	}
}
