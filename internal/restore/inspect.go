package restore

import (
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
)

// InspectRootfs calls f while the new container's snapshot is mounted at dir, as the checkpoint's changes have left it.
func InspectRootfs(mounts []mount.Mount, dir string, f func(root string) error) (err error) {
	if err := mount.All(mounts, dir); err != nil {
		return fmt.Errorf("mount root file system at %s: %w", dir, errors.Join(err, detachBelow(dir)))
	}
	defer func() {
		if uerr := mount.UnmountAll(dir, 0); uerr != nil {
			err = errors.Join(err, fmt.Errorf("unmount root file system: %w", uerr), detachBelow(dir))
		}
	}()
	return f(dir)
}
