package cgroup

import (
	"errors"
	"fmt"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Load returns the cgroup of a process, a cgroup1.Cgroup or a *cgroup2.Manager. The error is of class
// errdefs.ErrNotFound if there is no such process.
func Load(pid int) (any, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("no process: %w", errdefs.ErrNotFound)
	}
	cg, err := load(pid)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, cgroup1.ErrCgroupDeleted) {
		return nil, fmt.Errorf("cgroup of process %d: %w", pid, errdefs.ErrNotFound)
	}
	return cg, err
}

func load(pid int) (any, error) {
	if cgroups.Mode() == cgroups.Unified {
		group, err := cgroup2.PidGroupPath(pid)
		if err != nil {
			return nil, err
		}
		return cgroup2.Load(group)
	}
	return cgroup1.Load(cgroup1.PidPath(pid))
}
