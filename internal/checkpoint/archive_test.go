package checkpoint

import (
	"archive/tar"
	"bytes"
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

// tree writes a checkpoint with two images of pages, and returns its files.
func writeTree(t *testing.T, dir string, pages int) map[string][]byte {
	t.Helper()
	files := map[string][]byte{
		"config.dump":             []byte("{}"),
		"checkpoint/pages-1.img":  bytes.Repeat([]byte("one page"), pages*4096/8),
		"checkpoint/pages-2.img":  bytes.Repeat([]byte("2nd page"), 4096/8),
		"checkpoint/core-1.img":   []byte("core"),
		"checkpoint/tmpfs-1.img":  bytes.Repeat([]byte("t"), maxHeadFile+1),
		"container.log":           bytes.Repeat([]byte("line\n"), maxHeadFile),
		"rootfs-diff.tar":         []byte("diff"),
		"checkpoint/sub/deep.img": nil,
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// requireUnpacks fails the test unless the archive unpacks to these files.
func requireUnpacks(t *testing.T, archive string, files map[string][]byte) {
	t.Helper()
	dst := t.TempDir()
	if err := Unpack(t.Context(), archive, dst, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	found := 0
	err := filepath.WalkDir(dst, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		found++
		content, err := os.ReadFile(name)
		if want, ok := files[strings.TrimPrefix(name, dst+"/")]; !ok || !bytes.Equal(content, want) {
			t.Errorf("%s: %d bytes, want %d", name, len(content), len(want))
		}
		return err
	})
	if err != nil || found != len(files) {
		t.Errorf("%d files, want %d, error %v", found, len(files), err)
	}
}

// memoryDir is a directory on a file system that cannot insert.
func memoryDir(t *testing.T) string {
	t.Helper()
	memory := filepath.Join(t.TempDir(), "memory")
	if err := errors.Join(os.Mkdir(memory, 0o700), unix.Mount("test", memory, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(memory, 0); err != nil {
			t.Error(err)
		}
	})
	return memory
}

func TestWriteArchive(t *testing.T) {
	memory := memoryDir(t)
	inserts := func(dir string) bool {
		f, err := os.Create(filepath.Join(dir, "probe"))
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(f.Name())
		defer f.Close()
		if _, err := f.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_INSERT_RANGE, 0, 64<<10) == nil
	}
	for name, dir := range map[string]string{"disk": t.TempDir(), "memory": memory} {
		for _, pages := range []int{1, 3, 700} {
			tree, file := filepath.Join(dir, "tree"), filepath.Join(dir, "archive")
			files := writeTree(t, tree, pages)
			inPlace, err := WriteArchive(t.Context(), tree, file)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if want := int64(pages * 4096); inserts(dir) && inPlace != want || !inserts(dir) && inPlace != 0 {
				t.Errorf("%s: %d bytes in place, %d possible", name, inPlace, want)
			}
			if fi, err := os.Stat(file); err != nil || fi.Mode() != 0o600 {
				t.Errorf("%s: %v, %v", name, fi.Mode(), err)
			}
			requireUnpacks(t, file, files)
			if err := errors.Join(os.RemoveAll(tree), os.Remove(file)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestWriteArchiveFails(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	writeTree(t, tree, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := WriteArchive(ctx, tree, filepath.Join(dir, "plain")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(tree, "status")); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteArchive(t.Context(), tree, filepath.Join(dir, "link")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a link: %v", err)
	}
}

func TestAlignedHeader(t *testing.T) {
	for _, align := range []int64{512, 4096, 64 << 10} {
		for offset := int64(0); offset < align; offset += max(512, align/16) {
			// More than fits into the header's own field for the size.
			h, err := alignedHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "checkpoint/pages-1.img", Size: 9 << 30}, offset,
				align)
			if err != nil || (offset+int64(len(h)))%align != 0 {
				t.Fatalf("offset %d of %d: %d bytes, %v", offset, align, len(h), err)
			}
			got, err := tar.NewReader(io.MultiReader(bytes.NewReader(h))).Next()
			if err != nil || got.Size != 9<<30 || got.Name != "checkpoint/pages-1.img" {
				t.Errorf("offset %d of %d: %+v, %v", offset, align, got, err)
			}
		}
	}
}

func TestPlace(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	for _, want := range []func(error) bool{func(err error) bool { return err == nil }, errdefs.IsAlreadyExists} {
		if err := os.WriteFile(from, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Place(t.Context(), from, to); !want(err) {
			t.Errorf("%v", err)
		}
	}
	if err := Place(t.Context(), from, filepath.Join(dir, "absent", "to")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// endsAt is a context that ends when it is asked for the nth time.
type endsAt struct {
	context.Context
	left int
}

func (c *endsAt) Err() error {
	if c.left--; c.left < 0 {
		return context.DeadlineExceeded
	}
	return nil
}

// A deadline that ends while the archive is placed leaves no archive, or is not noticed.
func TestPlaceAtTheDeadline(t *testing.T) {
	outcomes := map[bool]int{}
	for n := range 4 {
		dir := t.TempDir()
		from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
		if err := os.WriteFile(from, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Place(&endsAt{t.Context(), n}, from, to)
		_, serr := os.Stat(to)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) || (err == nil) != (serr == nil) {
			t.Errorf("at %d: %v, and the archive: %v", n, err, serr)
		}
		outcomes[err == nil]++
	}
	if outcomes[true] == 0 || outcomes[false] < 2 {
		t.Errorf("outcomes %v: the context is not asked before and after", outcomes)
	}
}
