package cgroup

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/recovery"
)

// Freeze freezes a container's cgroup, and returns when all processes in it are frozen. A cgroup that is frozen stays
// so. The error is the context's if that takes too long, and of class errdefs.ErrNotFound if no process is in it.
func Freeze(ctx context.Context, id string) error {
	// Not by the PID that a task names: a process that has ended is in the root cgroup.
	pids, err := Processes(id)
	if err != nil {
		return fmt.Errorf("processes of container %s: %w", id, err)
	}
	if len(pids) == 0 {
		return fmt.Errorf("no process of container %s: %w", id, errdefs.ErrNotFound)
	}
	done := make(chan error, 1)
	// It cannot be interrupted, and ends with the cgroup at the latest.
	go func() { done <- recovery.Do(ctx, "freeze", func() error { return freeze(pids[0], id) }) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, cgroup1.ErrCgroupDeleted) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound) // the process has just ended
	}
	if err != nil {
		return fmt.Errorf("freeze the cgroup of container %s: %w", id, err)
	}
	return nil
}

// freeze freezes the container's cgroup that a process is in or below.
func freeze(pid int, id string) error {
	if cgroups.Mode() == cgroups.Unified {
		group, err := cgroup2.PidGroupPath(pid)
		if err != nil {
			return err
		}
		if group, err = upTo(group, id); err != nil {
			return err
		}
		m, err := cgroup2.Load(group)
		if err != nil {
			return err
		}
		return m.Freeze()
	}
	path, err := cgroup1.PidPath(pid)(cgroup1.Freezer)
	if err != nil {
		return err
	}
	if path, err = upTo(path, id); err != nil {
		return err
	}
	cg, err := cgroup1.Load(cgroup1.StaticPath(path), cgroup1.WithHierarchy(cgroup1.SingleSubsystem(cgroup1.Default, cgroup1.Freezer)))
	if err != nil {
		return err
	}
	return cg.Freeze()
}

// upTo is the part of a cgroup's path that ends with the element that has the container's ID.
func upTo(path, id string) (string, error) {
	at := strings.Index(path, id)
	if at < 0 {
		return "", fmt.Errorf("cgroup %q is none of container %s: %w", path, id, errdefs.ErrNotFound)
	}
	if end := strings.IndexByte(path[at:], '/'); end >= 0 {
		path = path[:at+end]
	}
	return path, nil
}
