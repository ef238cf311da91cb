package dump

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/google/uuid"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Reconcile ends the checkpoints that an earlier containerd was taking when it stopped: their containers run on,
// and what they left is removed. It has to run before the CRI plugin recovers, which
// would take a frozen container for one in an unknown state.
func (s *Store) Reconcile(ctx context.Context) error {
	found, err := s.Leases.List(ctx, fmt.Sprintf("labels.%q", LabelID))
	if err != nil {
		return fmt.Errorf("list leases of checkpoints: %w", err)
	}
	var errs []error
	for _, l := range found {
		if err := s.abandon(ctx, l); err != nil {
			errs = append(errs, fmt.Errorf("checkpoint of container %s: %w", l.Labels[labelContainer], err))
			continue
		}
		log.G(ctx).WithField("container", l.Labels[labelContainer]).WithField("directory", l.Labels[labelDir]).
			Info("removed a checkpoint that was cut off")
	}
	return errors.Join(errs...)
}

func (s *Store) abandon(ctx context.Context, l leases.Lease) error {
	id, dir := l.Labels[LabelID], l.Labels[labelDir]
	if u, err := uuid.Parse(id); err != nil || u.String() != id || !filepath.IsAbs(dir) || !strings.HasSuffix(filepath.Base(dir), "."+id) {
		return fmt.Errorf("lease %s says directory %q, which is none of checkpoint %q: remove the lease: %w", l.ID, dir, id, errdefs.ErrFailedPrecondition)
	}
	// CRIU goes on by itself, and would freeze the container again at its end.
	if err := waitFor(dir, s.mounts(id)); err != nil {
		return err
	}
	if freezes, _ := strconv.ParseBool(l.Labels[labelFreezes]); freezes {
		if err := s.resume(ctx, l.Labels[labelContainer]); err != nil {
			return err
		}
	}
	if err := errors.Join(removeDir(s.mounts(id)), removeDir(dir)); err != nil {
		return err
	}
	if err := s.Leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// waitFor waits for the end of the processes that work in one of the directories.
func waitFor(dirs ...string) error {
	deadline := time.Now().Add(cleanupTimeout)
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, proc := range procs {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // gone
		}
		// Looked at after the descriptor was opened, so that it is about the same process.
		if cwd, err := os.Readlink(filepath.Join(proc, "cwd")); err == nil && slices.ContainsFunc(dirs, func(dir string) bool { return within(cwd, dir) }) {
			if err := pollUntil(fd, deadline); err != nil {
				unix.Close(fd)
				return fmt.Errorf("process %d works in %s: %w", pid, cwd, err)
			}
		}
		unix.Close(fd)
	}
	return nil
}

// pollUntil waits until the process of a pidfd has ended.
func pollUntil(fd int, deadline time.Time) error {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("it does not end: %w", errdefs.ErrUnavailable)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// removeDir removes a directory, after everything that is mounted below it was unmounted.
func removeDir(dir string) error {
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir)) // as the kernel lists it
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dir = filepath.Join(parent, filepath.Base(dir))
	for left := math.MaxInt; ; {
		mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return !within(i.Mountpoint, dir), false })
		if err != nil {
			return err
		}
		if len(mounts) == 0 {
			return os.RemoveAll(dir)
		}
		if len(mounts) >= left {
			return fmt.Errorf("%s is kept, something stays mounted at %s: %w", dir, mounts[0].Mountpoint, errdefs.ErrUnavailable)
		}
		left = len(mounts)
		for _, m := range slices.Backward(mounts) {
			_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // seen in the next round
		}
	}
}
