package checkpoint

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

// T16 to T18, T20, T39: every place, every kind of file that is no file.
func TestOpenIrregular(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte(containerdFiles()["config.dump"]), 0o600); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]func(t *testing.T, name string) error{
		"symbolic link": func(_ *testing.T, name string) error { return os.Symlink(outside, name) },
		"FIFO":          func(_ *testing.T, name string) error { return syscall.Mkfifo(name, 0o600) },
		"socket": func(t *testing.T, name string) error {
			// By a relative name: a socket's is short.
			t.Chdir(filepath.Dir(name))
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Base(name), Net: "unix"})
			if err == nil {
				l.SetUnlinkOnClose(false)
				err = l.Close()
			}
			return err
		},
	}
	if os.Getuid() == 0 {
		kinds["device"] = func(_ *testing.T, name string) error {
			return syscall.Mknod(name, syscall.S_IFCHR|0o600, 1<<8|5) // /dev/zero: endless
		}
	}
	for kind, make := range kinds {
		for _, name := range []string{
			"config.dump", "spec.dump", "checkpoint/descriptors.json", "checkpoint/inventory.img", "checkpoint/core-1.img",
			"container.log", "rootfs-diff.tar", "deleted.files", "status.dump", "status", "unknown", "checkpoint/sub/deep",
		} {
			t.Run(kind+" "+name, func(t *testing.T) {
				dir := containerdFiles().with("checkpoint/sub/x", "").tree(t)
				file := filepath.Join(dir, name)
				if err := os.RemoveAll(file); err != nil {
					t.Fatal(err)
				}
				if err := make(t, file); err != nil {
					t.Fatal(err)
				}
				_, err := Open(dir, DefaultLimits())
				wantError(t, err, errdefs.IsInvalidArgument, name, kind)
				// The honest twin.
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				content, ok := containerdFiles()[name]
				if !ok {
					content = "[]"
				}
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				open(t, dir)
			})
		}
	}
}

func TestOpenDirectoryInPlaceOfFile(t *testing.T) {
	for _, name := range []string{"config.dump", "spec.dump", "checkpoint/inventory.img", "checkpoint/descriptors.json"} {
		_, err := Open(containerdFiles().without(name).with(name+"/x", "").tree(t), DefaultLimits())
		wantError(t, err, errdefs.IsInvalidArgument, name, "directory")
	}
	c := open(t, containerdFiles().without("container.log").with("container.log/x", "").tree(t))
	_, err := c.OpenLog()
	wantError(t, err, errdefs.IsInvalidArgument, "container.log", "directory")

	_, err = Open(containerdFiles().images().without("checkpoint/inventory.img").with("config.dump", "").tree(t),
		DefaultLimits())
	wantError(t, err, errdefs.IsInvalidArgument, "checkpoint/inventory.img is missing")
}

// Hard links are fine: layers may have them, and the bytes are the image's own.
func TestOpenHardLink(t *testing.T) {
	dir := containerdFiles().tree(t)
	if err := os.Link(filepath.Join(dir, "config.dump"), filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestOpenIncremental(t *testing.T) {
	dir := podmanFiles().tree(t)
	parent := filepath.Join(dir, "checkpoint/parent")
	if err := os.Symlink("../pre-checkpoint", parent); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir, DefaultLimits())
	wantError(t, err, errdefs.IsInvalidArgument, "checkpoint/parent", "incremental checkpoints are not supported",
		"--with-previous")
	if err := os.Remove(parent); err != nil {
		t.Fatal(err)
	}
	open(t, dir)

	pre := files{"config.dump": "{}", "spec.dump": "{}", "pre-checkpoint/pages-1.img": "p"}.tree(t)
	_, err = Open(pre, DefaultLimits())
	wantError(t, err, errdefs.IsInvalidArgument, "--pre-checkpoint")
}

// A file that is swapped after the walk, as nothing private to the plugin ever is.
func TestOpenAfterWalk(t *testing.T) {
	dir := crioFiles().tree(t)
	c := open(t, dir)
	for name, read := range map[string]func() error{
		"io.kubernetes.cri-o.LogPath": func() error { _, err := c.OpenLog(); return err },
		"rootfs-diff.tar":             func() error { _, err := c.OpenRootfsDiff(t.Context()); return err },
		"deleted.files":               func() error { _, err := c.DeletedFiles(); return err },
	} {
		file := filepath.Join(dir, name)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("config.dump", file); err != nil {
			t.Fatal(err)
		}
		wantError(t, read(), errdefs.IsInvalidArgument, name, "symbolic link")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(file, 0o600); err != nil {
			t.Fatal(err)
		}
		wantError(t, read(), errdefs.IsInvalidArgument, name, "FIFO")
	}
}
