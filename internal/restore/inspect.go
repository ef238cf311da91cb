package restore

import (
	"errors"

	"github.com/containerd/containerd/v2/core/mount"
)

// InspectRootfs calls f while the new container's snapshot is mounted at dir, as the checkpoint's changes have left it.
// It can be written to: f asks who may write what, and on a read-only file system nobody may, for reasons that are not
// the user's.
func InspectRootfs(mounts []mount.Mount, dir string, f func(root string) error) (err error) {
	unmount, err := mountRootfs(mounts, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	return f(dir)
}
