package restore

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/mounts"
)

// MountView mounts a read-only view at target unless something is mounted
// there already, as it is after a restart of containerd.
func MountView(mounts []mount.Mount, target string) error {
	mounted, err := mountinfo.Mounted(target)
	if err != nil {
		return fmt.Errorf("view at %s: %w", target, err)
	}
	if mounted {
		return nil
	}
	if err := mount.All(readonly(mounts), target); err != nil {
		return fmt.Errorf("mount view at %s: %w", target, errors.Join(err, detachBelow(target)))
	}
	return nil
}

// readonly makes sure that a view cannot be written, whatever the snapshotter
// answers, and that nothing in a stranger's image can be executed, opened as a
// device or gain privileges by way of the mount.
func readonly(mounts []mount.Mount) []mount.Mount {
	out := slices.Clone(mounts)
	for i := range out {
		opts := slices.DeleteFunc(slices.Clone(out[i].Options), func(o string) bool { return o == "rw" })
		for _, o := range []string{"ro", "nosuid", "nodev", "noexec"} {
			if !slices.Contains(opts, o) {
				opts = append(opts, o)
			}
		}
		out[i].Options = opts
	}
	return out
}

// detachBelow unmounts everything that is mounted at dir or below it, the
// deepest first. A recursive delete of dir is safe only afterwards: it would
// otherwise go on into whatever is mounted there.
func detachBelow(dir string) error {
	dir, err := mounts.RealPath(dir)
	if err != nil {
		return err
	}
	return detach(func(mountpoint string) bool {
		return mountpoint == dir || strings.HasPrefix(mountpoint, dir+"/")
	})
}

// detach unmounts every mount whose mount point is chosen, the last one listed first.
//
// mountinfo lists mounts in the order in which they were made, which need not be
// that in which they were put into place: one may hide another that is listed
// later, and is uncovered only when the first is gone. Hence as many rounds as it takes.
func detach(chosen func(mountpoint string) bool) error {
	left := math.MaxInt
	for {
		mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return !chosen(i.Mountpoint), false })
		if err != nil {
			return fmt.Errorf("read mounts: %w", err)
		}
		if len(mounts) == 0 {
			return nil
		}
		var errs []error
		for _, m := range slices.Backward(mounts) {
			if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", m.Mountpoint, err))
			}
		}
		if len(mounts) >= left {
			return errors.Join(append(errs, fmt.Errorf("%d mounts stay, such as %s: %w", len(mounts), mounts[0].Mountpoint, errdefs.ErrUnavailable))...)
		}
		left = len(mounts)
	}
}

// removeAll removes a directory in which there may be mounts. Nothing is removed
// where something stays mounted.
func removeAll(dir string) error {
	if err := detachBelow(dir); err != nil {
		return fmt.Errorf("%s is kept, something is mounted below it: %w", dir, err)
	}
	return os.RemoveAll(dir)
}
