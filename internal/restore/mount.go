package restore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"

	"github.com/cri-restore/cri-restore/internal/mounts"
)

// MountView mounts a read-only view at target unless something is mounted
// there already, as it is after a restart of containerd.
func MountView(view []mount.Mount, target string) error {
	mounted, err := mountinfo.Mounted(target)
	if err != nil {
		return fmt.Errorf("view at %s: %w", target, err)
	}
	if mounted {
		return nil
	}
	if err := mount.All(readonly(view), target); err != nil {
		return fmt.Errorf("mount view at %s: %w", target, errors.Join(err, mounts.Below(target)))
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
