package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Victims are the processes of a container that are to be killed: those in its cgroup and below it.
type Victims struct {
	// ID is the container's.
	ID string
	// Others, if there is one, lists processes of the container that may be outside of its cgroup.
	Others func(ctx context.Context) []int
	// Spare, if there is one, says which processes are not killed.
	Spare func(pid int) bool
}

func (v Victims) list(ctx context.Context) ([]int, error) {
	pids, err := Processes(v.ID)
	if err != nil {
		return nil, fmt.Errorf("processes of container %s: %w", v.ID, err)
	}
	if v.Others != nil {
		for _, pid := range v.Others(ctx) {
			if !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	return slices.DeleteFunc(pids, func(pid int) bool { return v.Spare != nil && v.Spare(pid) }), nil
}

// Kill kills the processes and waits for their end; again until there are none, because one may have started another
// meanwhile. It returns how many it has killed. The error is the context's if a process does not end before.
func Kill(ctx context.Context, v Victims) (int, error) {
	killed := map[int]bool{}
	for {
		pids, err := v.list(ctx)
		if err != nil {
			return len(killed), err
		}
		// One that has ended stays in the list until its parent has asked for its exit.
		pids = slices.DeleteFunc(pids, func(pid int) bool { return killed[pid] })
		if len(pids) == 0 {
			return len(killed), nil
		}
		if err := kill(ctx, v, pids); err != nil {
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
func kill(ctx context.Context, v Victims, pids []int) error {
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
			return fmt.Errorf("process %d of container %s: %w", pid, v.ID, err)
		}
		open[pid] = fd
	}
	still, err := v.list(ctx)
	if err != nil {
		return err
	}
	if v.Spare == nil {
		killGroups(v.ID, still)
	}
	for pid, fd := range open {
		if !slices.Contains(still, pid) {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d of container %s: %w", pid, v.ID, err)
		}
	}
	for pid, fd := range open {
		if !slices.Contains(still, pid) {
			continue
		}
		if err := Wait(ctx, fd); err != nil {
			return fmt.Errorf("wait for killed process %d of container %s: %w", pid, v.ID, err)
		}
	}
	return nil
}

// killGroups kills the container's whole cgroup at once where cgroups are of version 2 and the kernel can (Linux 5.14,
// cgroup-v2.rst: cgroup.kill): no process gets away by starting another. It does not wait, and where it fails (an older
// kernel, a threaded cgroup) the signals that follow have to do.
func killGroups(id string, pids []int) {
	tried := map[string]bool{}
	for _, pid := range pids {
		path := unifiedPath(pid, id)
		if path == "" || tried[path] {
			continue
		}
		tried[path] = true
		hierarchies, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
		if err != nil {
			return
		}
		for _, h := range hierarchies {
			if h.Root == "/" && os.WriteFile(filepath.Join(h.Mountpoint, path, "cgroup.kill"), []byte("1"), 0) == nil {
				break
			}
		}
	}
}

// unifiedPath is the container's cgroup of version 2 in which a process is, empty if it is in none: up to the element
// with the container's ID.
func unifiedPath(pid int, id string) string {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || len(id) < minIDLength {
		return ""
	}
	for line := range strings.Lines(string(content)) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::") // cgroups(7)
		before, after, found := strings.Cut(path, id)
		if ok && found {
			rest, _, _ := strings.Cut(after, "/")
			return before + id + rest
		}
	}
	return ""
}
