// Package cgroup is the processes in a container's cgroup: who they are, and their end.
package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// minIDLength is that of an ID which names one container and nothing else, as the
// CRI plugin's do.
const minIDLength = 32

// Processes returns the processes in the container's cgroup or below it, in whatever
// hierarchy. It goes by the cgroup's name, which holds the container's ID
// whoever manages cgroups (".../<id>", ".../cri-containerd-<id>.scope").
func Processes(id string) ([]int, error) {
	if len(id) < minIDLength {
		return nil, nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// cgroups(7): hierarchy:controllers:path
		content, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(content) {
			if fields := strings.SplitN(string(line), ":", 3); len(fields) == 3 && strings.Contains(fields[2], id) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}

// Kill kills the processes in the container's cgroup except those that are spared, and waits
// for their end; again until there are none, because one may have forked. It returns how many it has killed.
func Kill(ctx context.Context, id string, spare func(pid int) bool) (int, error) {
	killed := map[int]bool{}
	for {
		pids, err := Processes(id)
		if err != nil {
			return len(killed), fmt.Errorf("processes of container %s: %w", id, err)
		}
		// One that has ended stays in the list until its parent has asked for its exit.
		pids = slices.DeleteFunc(pids, func(pid int) bool { return killed[pid] || spare(pid) })
		if len(pids) == 0 {
			return len(killed), nil
		}
		if err := kill(ctx, id, pids); err != nil {
			return len(killed), err
		}
		for _, pid := range pids {
			killed[pid] = true
		}
	}
}

// kill kills the processes and waits for their end. A PID may have gone to another
// process since it was listed: so they are listed again when the pidfds are open, which
// name their process for good.
func kill(ctx context.Context, id string, pids []int) error {
	open := map[int]int{}
	defer func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("process %d of container %s: %w", pid, id, err)
		}
		open[pid] = fd
	}
	still, err := Processes(id)
	if err != nil {
		return err
	}
	for pid, fd := range open {
		if !slices.Contains(still, pid) {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d of container %s: %w", pid, id, err)
		}
	}
	for pid, fd := range open {
		if !slices.Contains(still, pid) {
			continue
		}
		if err := Wait(ctx, fd); err != nil {
			return fmt.Errorf("wait for killed process %d of container %s: %w", pid, id, err)
		}
	}
	return nil
}

// Wait waits until the process of a pidfd has ended.
func Wait(ctx context.Context, pidfd int) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer func() {
		if stop() {
			w.Close()
		}
	}()
	// A pidfd is readable when its process has ended, a pipe hangs up when its other end is closed.
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(r.Fd())}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("poll: %w", err)
		case fds[0].Revents != 0:
			return nil
		case fds[1].Revents != 0:
			return context.Cause(ctx)
		}
	}
}
