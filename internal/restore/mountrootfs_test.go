package restore

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// overlayOn returns an overlay with the options beside its directories, and its upper directory.
func overlayOn(t *testing.T, dir string, options ...string) ([]mount.Mount, string) {
	t.Helper()
	lower, upper, work := mkdir(t, dir, "lower"), mkdir(t, dir, "upper"), mkdir(t, dir, "work")
	write(t, lower, map[string]string{"below": "x"})
	return []mount.Mount{{Type: "overlay", Source: "overlay",
		Options: append(options, "workdir="+work, "upperdir="+upper, "lowerdir="+lower)}}, upper
}

// The options with which the file system at dir is mounted.
func mountedWith(t *testing.T, dir string) []string {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	check(t, err)
	if len(infos) != 1 {
		t.Fatalf("%d file systems are mounted at %s", len(infos), dir)
	}
	return append(strings.Split(infos[0].VFSOptions, ","), strings.Split(infos[0].Options, ",")...)
}

// An overlay is unmounted without waiting for the disk, and can be mounted again, as often as one likes and
// whether or not the node makes its containers' volatile.
func TestMountRootfs(t *testing.T) {
	for _, options := range [][]string{nil, {"volatile"}} {
		dir := mountDir(t)
		target := mkdir(t, dir, "target")
		mounts, upper := overlayOn(t, dir, options...)
		for _, name := range []string{"a", "b"} {
			unmount, err := mountRootfs(mounts, target)
			check(t, err)
			with := mountedWith(t, target)
			if !slices.Contains(with, "volatile") && !slices.Contains(with, "fsync=volatile") {
				t.Errorf("mounted with %q", with)
			}
			write(t, target, map[string]string{name: name})
			check(t, unmount())
			noMounts(t, target)
			if got := names(t, upper); !slices.Contains(got, name) {
				t.Errorf("the snapshot has %q", got)
			}
		}
		err := InspectRootfs(mounts, target, func(root string) error {
			if got := names(t, root); !slices.Equal(got, []string{"a", "b", "below"}) {
				t.Errorf("%q", got)
			}
			// Whoever may write to a file is judged by asking the kernel, which says that nobody may on a read-only file system.
			if err := unix.Access(root, unix.W_OK); err != nil {
				t.Errorf("cannot be written to: %v", err)
			}
			return nil
		})
		check(t, err)
		// As runc's shim will.
		check(t, mount.All(mounts, target))
		check(t, mount.UnmountAll(target, 0))
		if options != nil {
			// What makes the test one: such an overlay is not mounted twice.
			if err := mount.All(mounts, target); err == nil {
				t.Error("the kernel mounts a volatile overlay twice")
				check(t, mount.UnmountAll(target, 0))
			}
		}
	}
}
