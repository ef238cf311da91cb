package cgroup

import (
	"context"
	"fmt"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/errdefs"
)

// Freeze freezes a container's cgroup, and returns when all processes in it are frozen. A cgroup that is frozen stays
// so. The error is the context's if that takes too long, and of class errdefs.ErrNotFound if no process is in it.
func Freeze(ctx context.Context, id string) error {
	// Not by the PID that a task names: that of a process which has ended is in the root cgroup.
	pids, err := Processes(id)
	if err != nil {
		return fmt.Errorf("processes of container %s: %w", id, err)
	}
	if len(pids) == 0 {
		return fmt.Errorf("no process of container %s: %w", id, errdefs.ErrNotFound)
	}
	pid := pids[0]
	done := make(chan error, 1)
	go func() { done <- freeze(pid) }() // it cannot be interrupted, and ends with the cgroup at the latest
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("freeze the cgroup of process %d: %w", pid, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("freeze the cgroup of process %d: %w", pid, ctx.Err())
	}
}

func freeze(pid int) error {
	if cgroups.Mode() == cgroups.Unified {
		group, err := cgroup2.PidGroupPath(pid)
		if err != nil {
			return err
		}
		m, err := cgroup2.Load(group)
		if err != nil {
			return err
		}
		return m.Freeze()
	}
	cg, err := cgroup1.Load(cgroup1.PidPath(pid))
	if err != nil {
		return err
	}
	return cg.Freeze()
}
