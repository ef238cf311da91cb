package restore

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/mounts"
)

// mountDir returns a directory below which nothing may be mounted at the end.
func mountDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { noMounts(t, dir) })
	return dir
}

func mkdir(t *testing.T, elem ...string) string {
	t.Helper()
	dir := filepath.Join(elem...)
	check(t, os.MkdirAll(dir, 0o755))
	return dir
}

func bind(t *testing.T, source, target string) {
	t.Helper()
	check(t, os.MkdirAll(target, 0o755))
	check(t, unix.Mount(source, target, "", unix.MS_BIND, ""))
}

func tmpfs(t *testing.T, target string) {
	t.Helper()
	check(t, os.MkdirAll(target, 0o755))
	check(t, unix.Mount("test", target, "tmpfs", 0, ""))
}

// unmountAll does not use the product's code, which it cleans up after.
func unmountAll(t testing.TB, dir string) {
	t.Helper()
	for range 10 {
		for _, m := range slices.Backward(mountsBelow(t, dir)) {
			_ = unix.Unmount(m, unix.MNT_DETACH)
		}
	}
}

func TestMountView(t *testing.T) {
	for name, view := range map[string]func(low, high string) []mount.Mount{
		"bind": func(_, high string) []mount.Mount {
			return []mount.Mount{{Type: "bind", Source: high, Options: []string{"ro", "rbind"}}}
		},
		"bind that could be written": func(_, high string) []mount.Mount {
			return []mount.Mount{{Type: "bind", Source: high, Options: []string{"rbind", "rw"}}}
		},
		"overlay": func(low, high string) []mount.Mount {
			return []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + high + ":" + low}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := mountDir(t)
			low, high, target := mkdir(t, dir, "low"), mkdir(t, dir, "high"), mkdir(t, dir, "target")
			write(t, low, map[string]string{"config.dump": "hidden", "low": "low"})
			write(t, high, map[string]string{"config.dump": "x", "run": "#!/bin/sh\n"})
			check(t, os.Chmod(filepath.Join(high, "run"), 0o4755))
			check(t, unix.Mknod(filepath.Join(high, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))

			given := view(low, high)
			before := slices.Clone(given[0].Options)
			for range 2 { // the second time is after a restart
				check(t, MountView(given, target))
			}
			if !slices.Equal(given[0].Options, before) {
				t.Errorf("the caller's options became %q", given[0].Options)
			}
			if all := mountsBelow(t, target); len(all) != 1 {
				t.Errorf("mounts: %s", all)
			}
			if data, err := os.ReadFile(filepath.Join(target, "config.dump")); err != nil || string(data) != "x" {
				t.Errorf("read %q, %v", data, err)
			}
			for what, f := range map[string]func() error{
				"overwrite": func() error { return os.WriteFile(filepath.Join(target, "config.dump"), []byte("y"), 0o600) },
				"create":    func() error { return os.WriteFile(filepath.Join(target, "new"), nil, 0o600) },
				"remove":    func() error { return os.Remove(filepath.Join(target, "config.dump")) },
				"chmod":     func() error { return os.Chmod(target, 0o700) },
			} {
				if err := f(); !errors.Is(err, unix.EROFS) {
					t.Errorf("%s: %v, want %v", what, err, unix.EROFS)
				}
			}
			if err := exec.CommandContext(t.Context(), filepath.Join(target, "run")).Run(); !errors.Is(err, unix.EACCES) {
				t.Errorf("execute: %v", err)
			}
			if f, err := os.Open(filepath.Join(target, "null")); err == nil {
				f.Close()
				t.Error("a device was opened")
			}
			infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(target))
			check(t, err)
			for _, o := range []string{"ro", "nosuid", "nodev", "noexec"} {
				if !slices.Contains(strings.Split(infos[0].Options, ","), o) {
					t.Errorf("no %s in %q", o, infos[0].Options)
				}
			}
			check(t, mounts.Below(target))
			noMounts(t, target)
		})
	}
}

func TestMountViewThatFailsLeavesNothing(t *testing.T) {
	dir := mountDir(t)
	source, target := mkdir(t, dir, "source"), mkdir(t, dir, "target")
	err := MountView([]mount.Mount{
		{Type: "bind", Source: source, Options: []string{"rbind"}},
		{Type: "bind", Source: filepath.Join(dir, "absent"), Options: []string{"rbind"}},
	}, target)
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), target) {
		t.Errorf("%v", err)
	}
	noMounts(t, target)
	if err := MountView(nil, filepath.Join(dir, "no-such")); err == nil {
		t.Error("mounted where there is no directory")
	}
}

func TestRemoveAllSparesWhatIsMounted(t *testing.T) {
	for name, arrange := range map[string]func(t *testing.T, dir, precious string){
		"bind below": func(t *testing.T, dir, precious string) { bind(t, precious, filepath.Join(dir, "a", "b")) },
		"bind of it": func(t *testing.T, dir, precious string) { bind(t, precious, dir) },
		"stacked": func(t *testing.T, dir, precious string) {
			for range 3 {
				bind(t, precious, filepath.Join(dir, "a"))
			}
		},
		"nested": func(t *testing.T, dir, precious string) {
			tmpfs(t, filepath.Join(dir, "a"))
			bind(t, precious, filepath.Join(dir, "a", "b"))
			tmpfs(t, filepath.Join(dir, "a", "b", "dir"))
			bind(t, precious, filepath.Join(dir, "a", "b", "dir", "c"))
		},
		"hidden by a later mount": func(t *testing.T, dir, precious string) {
			bind(t, precious, filepath.Join(dir, "a", "b"))
			tmpfs(t, filepath.Join(dir, "a"))
		},
		// CRIU mounts by way of open_tree and move_mount. A mount's place in mountinfo is then
		// not the order in which it was mounted.
		"hidden by an older mount": func(t *testing.T, dir, precious string) {
			other := mkdir(t, filepath.Dir(dir), "other")
			tree, err := unix.OpenTree(unix.AT_FDCWD, other, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			check(t, err)
			defer unix.Close(tree)
			bind(t, precious, filepath.Join(dir, "a", "b"))
			check(t, unix.MoveMount(tree, "", unix.AT_FDCWD, filepath.Join(dir, "a"), unix.MOVE_MOUNT_F_EMPTY_PATH))
		},
		"busy": func(t *testing.T, dir, precious string) {
			bind(t, precious, filepath.Join(dir, "a"))
			f, err := os.Open(filepath.Join(dir, "a", "file"))
			check(t, err)
			t.Cleanup(func() { f.Close() })
		},
		"odd names": func(t *testing.T, dir, precious string) {
			bind(t, precious, filepath.Join(dir, "a b\tc\\d\n", "#"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			top := mountDir(t)
			dir, precious := mkdir(t, top, "dir"), mkdir(t, top, "precious")
			write(t, precious, map[string]string{"file": "kept", "dir/deep": "kept"})
			write(t, dir, map[string]string{"own": "goes"})
			want := names(t, precious)
			arrange(t, dir, precious)
			if len(mountsBelow(t, dir)) == 0 {
				t.Fatal("nothing is mounted")
			}
			for range 2 {
				check(t, mounts.Remove(dir))
			}
			noMounts(t, top)
			if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", dir, err)
			}
			got := slices.DeleteFunc(names(t, precious), func(n string) bool { return n == "dir/c" }) // a mount point of ours
			if !slices.Equal(got, want) {
				t.Errorf("precious has %q, had %q", got, want)
			}
		})
	}
}

func TestRemoveAllStaysInItsDirectory(t *testing.T) {
	top := mountDir(t)
	write(t, top, map[string]string{"target/file": "kept", "dir/own": "goes", "dir-2/own": "kept"})
	tmpfs(t, filepath.Join(top, "dir-2", "m"))
	check(t, os.Symlink(filepath.Join(top, "target"), filepath.Join(top, "dir", "link")))
	check(t, os.Symlink(filepath.Join(top, "target"), filepath.Join(top, "link")))
	check(t, mounts.Remove(filepath.Join(top, "dir")))
	check(t, mounts.Remove(filepath.Join(top, "link")))
	check(t, mounts.Remove(filepath.Join(top, "no", "such", "dir")))
	if got, want := names(t, top), []string{"dir-2", "dir-2/m", "dir-2/own", "target", "target/file"}; !slices.Equal(got,
		want) {
		t.Errorf("left %q, want %q", got, want)
	}
	if left := mountsBelow(t, top); len(left) != 1 {
		t.Errorf("mounts %q", left)
	}
	unmountAll(t, top)
}

// The state directory may be /var/run/containerd, where /var/run is a link.
func TestDetachThroughALink(t *testing.T) {
	for name, f := range map[string]func(string) error{"Remove": mounts.Remove, "Below": mounts.Below} {
		t.Run(name, func(t *testing.T) {
			top := mountDir(t)
			precious := mkdir(t, top, "precious")
			write(t, precious, map[string]string{"file": "kept"})
			check(t, os.Symlink(mkdir(t, top, "real"), filepath.Join(top, "link")))
			bind(t, precious, mkdir(t, top, "real", "dir", "m"))
			check(t, f(filepath.Join(top, "link", "dir")))
			noMounts(t, top)
			if got := names(t, precious); !slices.Equal(got, []string{"file"}) {
				t.Errorf("precious has %q", got)
			}
		})
	}
}
