package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// unified is CRIU's name for the hierarchy of cgroup v2 (criu/cgroup.c, ctrl_dir_and_opt).
const unified = "unified"

// cgroupOptions make CRIU leave cgroups alone: what the checkpoint says of them and their properties is ignored, and
// every restored process begins where runc has put CRIU, in the new pod's.
//
// Where the container has a cgroup namespace CRIU has to make it, and makes none with "ignore". With "none" it makes no
// cgroup either and sets no property, but reads the image, which is the plugin's (package verify). It wants to see the
// cgroups in a directory; left to itself it would mount them, from the node's cgroup namespace and without the node's
// options, which takes nsdelegate and memory_recursiveprot from the whole node (Linux: kernel/cgroup/cgroup.c,
// apply_cgroup_root_flags). So it is shown the mount that there is.
func (s *Store) cgroupOptions(r *Record, spec *specs.Spec) ([]criu.Option, error) {
	if !hasCgroupNamespace(spec) {
		return []criu.Option{{Name: "manage-cgroups", Value: "ignore"}}, nil
	}
	mount, err := unifiedMount()
	if err != nil {
		return nil, err
	}
	yard := s.Dirs.Cgroups(r.ID)
	if err := os.MkdirAll(yard, 0o700); err != nil {
		return nil, fmt.Errorf("cgroups of restore %s: %w", r.ID, err)
	}
	link := filepath.Join(yard, unified)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cgroups of restore %s: %w", r.ID, err)
	}
	if err := os.Symlink(mount, link); err != nil {
		return nil, fmt.Errorf("cgroups of restore %s: %w", r.ID, err)
	}
	return []criu.Option{{Name: "manage-cgroups", Value: "none"}, {Name: "cgroup-yard", Value: yard}}, nil
}

func hasCgroupNamespace(spec *specs.Spec) bool {
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.CgroupNamespace
	})
}

// unifiedMount is where the hierarchy of cgroup v2 is mounted, as a whole: a container's own mount may be below
// it. It is a variable for the tests only.
var unifiedMount = func() (string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		return "", fmt.Errorf("mount of cgroup v2: %w", err)
	}
	for _, m := range mounts {
		if m.Root == "/" {
			return m.Mountpoint, nil
		}
	}
	return "", fmt.Errorf("the container is to have a cgroup namespace, for which CRIU needs cgroup v2, "+
		"and there is no mount of it: mount it at /sys/fs/cgroup: %w", errdefs.ErrFailedPrecondition)
}
