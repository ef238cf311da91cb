package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/cri-restore/cri-restore/internal/mounts"
)

// mountRootfs mounts a new container's snapshot at dir. unmount is not lazy: what was written must be in the
// snapshot before runc mounts it again.
//
// Unmounting an overlay waits until all that anybody has written to the file system below is on disk: seconds, on a
// busy node. Nothing here has to outlast a crash of the machine, as the container does not. So the overlay is volatile
// (kernel: Documentation/filesystems/overlayfs.rst, "Volatile mount", from Linux 5.10), and the mark that makes it be
// mounted only once is removed.
func mountRootfs(snapshot []mount.Mount, dir string) (unmount func() error, err error) {
	durable := mount.RemoveVolatileOption(snapshot)
	fast, marks := volatile(durable)
	err = mount.All(fast, dir)
	if err != nil && len(marks) > 0 { // an older kernel
		err = errors.Join(err, mounts.Below(dir))
		if again := mount.All(durable, dir); again == nil {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("mount root file system at %s: %w", dir, errors.Join(err, mounts.Below(dir)))
	}
	return func() error {
		if err := mount.UnmountAll(dir, 0); err != nil {
			return fmt.Errorf("unmount root file system: %w", errors.Join(err, mounts.Below(dir)))
		}
		for _, mark := range marks {
			if err := os.RemoveAll(mark); err != nil {
				return fmt.Errorf("root file system cannot be mounted again: %w", err)
			}
		}
		return nil
	}, nil
}

// volatile returns the mounts, overlays among them as volatile ones, and the marks that these will leave.
func volatile(mounts []mount.Mount) (_ []mount.Mount, marks []string) {
	out := slices.Clone(mounts)
	for i, m := range out {
		if m.Type != "overlay" {
			continue
		}
		for _, o := range m.Options {
			if workdir, ok := strings.CutPrefix(o, "workdir="); ok {
				marks = append(marks, filepath.Join(workdir, "work", "incompat"))
				out[i].Options = append(slices.Clone(m.Options), "volatile")
			}
		}
	}
	return out, marks
}
