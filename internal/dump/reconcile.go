package dump

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"
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
	if len(found) == 0 {
		return nil
	}
	failed := map[string]error{} // by lease
	var dirs []string
	for _, l := range found {
		if err := s.check(l); err != nil {
			failed[l.ID] = err
			continue
		}
		dirs = append(dirs, s.dirs(l)...)
		// First of all, because CRIU may wait without end for what is frozen. If it has hold of the processes it has thawed them itself.
		if freezes, _ := strconv.ParseBool(l.Labels[labelFreezes]); freezes {
			if err := s.thaw(ctx, l.Labels[labelContainer]); err != nil {
				log.G(ctx).WithError(err).Warn("failed to let a container run on whose checkpoint was cut off, it is tried again")
			}
		}
	}
	// CRIU goes on by itself, and would freeze the container again at its end.
	busy, err := waitFor(dirs, time.Now().Add(cleanupTimeout))
	if err != nil {
		return err
	}
	dirs = dirs[:0]
	for _, l := range found {
		if failed[l.ID] != nil {
			continue
		}
		for _, dir := range s.dirs(l) {
			failed[l.ID] = errors.Join(failed[l.ID], busy[dir])
		}
		if freezes, _ := strconv.ParseBool(l.Labels[labelFreezes]); freezes && failed[l.ID] == nil {
			failed[l.ID] = s.resume(ctx, l.Labels[labelContainer])
		}
		if failed[l.ID] == nil {
			dirs = append(dirs, s.dirs(l)...)
		}
	}
	kept := removeDirs(dirs)
	var errs []error
	var ended []leases.Lease
	for _, l := range found {
		for _, dir := range s.dirs(l) {
			failed[l.ID] = errors.Join(failed[l.ID], kept[dir])
		}
		if failed[l.ID] == nil {
			ended = append(ended, l)
			log.G(ctx).WithField("container", l.Labels[labelContainer]).WithField("directory", l.Labels[labelDir]).
				Info("removed a checkpoint that was cut off")
			continue
		}
		errs = append(errs, fmt.Errorf("checkpoint of container %s: %w", l.Labels[labelContainer], failed[l.ID]))
	}
	// The record goes only when all that it tells of is gone.
	return errors.Join(append(errs, s.deleteLeases(ctx, ended))...)
}

// thaw thaws a container's cgroup, if there is any process in it.
func (s *Store) thaw(ctx context.Context, container string) error {
	ctx, cancel := context.WithTimeout(ctx, thawGrace)
	defer cancel()
	if err := s.Thaw(ctx, container); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// check refuses a record that names a directory which is none of a checkpoint's.
func (s *Store) check(l leases.Lease) error {
	id, dir := l.Labels[LabelID], l.Labels[labelDir]
	if u, err := uuid.Parse(id); err != nil || u.String() != id || !filepath.IsAbs(dir) || !strings.HasSuffix(filepath.Base(dir), "."+id) {
		return fmt.Errorf("lease %s says directory %q, which is none of checkpoint %q: remove the lease: %w", l.ID, dir, id, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// dirs are the directories of a checkpoint.
func (s *Store) dirs(l leases.Lease) []string {
	return []string{s.mounts(l.Labels[LabelID]), l.Labels[labelDir]}
}

// deleteLeases deletes the leases in one transaction: each of its own would wait for the disk.
func (s *Store) deleteLeases(ctx context.Context, ended []leases.Lease) error {
	if len(ended) == 0 {
		return nil
	}
	var errs []error
	err := s.Transact(func(tx *bbolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		for _, l := range ended {
			if err := s.Leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("lease %s: %w", l.ID, err))
			}
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// waitForAll is waitFor with one error.
func waitForAll(dirs []string, deadline time.Time) error {
	busy, err := waitFor(dirs, deadline)
	return errors.Join(append(slices.Collect(maps.Values(busy)), err)...)
}

// waitFor waits for the end of the processes that work in one of the directories, and returns, by directory, those that do not
// end before the deadline.
func waitFor(dirs []string, deadline time.Time) (map[string]error, error) {
	busy := map[string]error{}
	if len(dirs) == 0 {
		return busy, nil
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
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
		if cwd, err := os.Readlink(filepath.Join(proc, "cwd")); err == nil {
			if i := slices.IndexFunc(dirs, func(dir string) bool { return within(cwd, dir) }); i >= 0 {
				if err := pollUntil(fd, deadline); err != nil {
					busy[dirs[i]] = fmt.Errorf("process %d works in %s: %w", pid, cwd, err)
				}
			}
		}
		unix.Close(fd)
	}
	return busy, nil
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
