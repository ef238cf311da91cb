package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	err := with(ctx, id, func(g group) error { return g.Freeze() })
	if err != nil {
		return fmt.Errorf("freeze the cgroup of container %s: %w", id, err)
	}
	return nil
}

// Thaw is the opposite of [Freeze], with the same errors. A cgroup that is not frozen stays so.
func Thaw(ctx context.Context, id string) error {
	err := with(ctx, id, func(g group) error { return g.Thaw() })
	if err != nil {
		return fmt.Errorf("thaw the cgroup of container %s: %w", id, err)
	}
	return nil
}

// Frozen reports whether a container's cgroup is frozen. Errors as those of [Freeze].
func Frozen(ctx context.Context, id string) (frozen bool, err error) {
	err = with(ctx, id, func(g group) (err error) { frozen, err = g.frozen(); return err })
	if err != nil {
		return false, fmt.Errorf("state of the cgroup of container %s: %w", id, err)
	}
	return frozen, nil
}

// group is a cgroup that can be frozen, of either version.
type group interface {
	Freeze() error
	Thaw() error
	frozen() (bool, error)
}

type group1 struct{ cgroup1.Cgroup }

func (g group1) frozen() (bool, error) { return g.State() == cgroup1.Frozen, nil }

type group2 struct {
	*cgroup2.Manager
	path string
}

// frozen asks for what is, not for what is to be (cgroup-v2.rst, cgroup.events).
func (g group2) frozen() (bool, error) {
	events, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", g.path, "cgroup.events"))
	return strings.Contains(string(events), "frozen 1"), err
}

// with calls f with a container's cgroup.
func with(ctx context.Context, id string, f func(group) error) error {
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
	go func() {
		done <- recovery.Do(ctx, "freeze", func() error {
			g, err := groupOf(pids[0], id)
			if err != nil {
				return err
			}
			return f(g)
		})
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, cgroup1.ErrCgroupDeleted) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound) // the process has just ended
	}
	return err
}

// groupOf is the container's cgroup that a process is in or below.
func groupOf(pid int, id string) (group, error) {
	if cgroups.Mode() == cgroups.Unified {
		group, err := cgroup2.PidGroupPath(pid)
		if err != nil {
			return nil, err
		}
		if group, err = upTo(group, id); err != nil {
			return nil, err
		}
		m, err := cgroup2.Load(group)
		return group2{m, group}, err
	}
	path, err := cgroup1.PidPath(pid)(cgroup1.Freezer)
	if err != nil {
		return nil, err
	}
	if path, err = upTo(path, id); err != nil {
		return nil, err
	}
	cg, err := cgroup1.Load(cgroup1.StaticPath(path),
		cgroup1.WithHierarchy(cgroup1.SingleSubsystem(cgroup1.Default, cgroup1.Freezer)))
	return group1{cg}, err
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
