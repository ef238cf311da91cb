package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/log"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/cgroup"
)

// abandon takes back what a restore that failed may have made. The shim knows
// no process until the whole restore has succeeded: if that failed in its
// last steps, or was cancelled, there may be processes that only runc knows, which nobody would
// wait for and because of which runc would refuse to delete the container. If runc was
// killed, there may be CRIU and what it has made so far, and the container's cgroup.
func (t *Tasks) abandon(ctx context.Context, b *binding, id string) error {
	c, rec, err := b.restores.Get(ctx, id)
	if err != nil {
		return err
	}
	err = errors.Join(t.killAll(ctx, id), b.restores.StopServer(ctx, rec), b.restores.Detach(id, rec))
	if err := removeCgroup(c); err != nil {
		// Nothing is lost by it: the next start, and the end of the pod, use it or remove it.
		log.G(ctx).WithError(err).Warn("a failed restore leaves a cgroup")
	}
	return err
}

// killAll kills the container's processes and waits for their end, again until there
// are none: CRIU may start some while it is being killed.
func (t *Tasks) killAll(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	killed := map[int]bool{}
	for {
		pids, err := t.processes(ctx, id)
		if err != nil {
			return err
		}
		// One that has ended stays in the lists until its parent has asked for its exit.
		pids = slices.DeleteFunc(pids, func(pid int) bool { return killed[pid] })
		if len(pids) == 0 {
			return nil
		}
		if err := t.kill(ctx, id, pids); err != nil {
			return err
		}
		for _, pid := range pids {
			killed[pid] = true
		}
	}
}

// kill kills the processes and waits for their end. A PID may have gone to another
// process since it was listed: so they are listed again when the pidfds are open, which
// name their process for good.
func (t *Tasks) kill(ctx context.Context, id string, pids []int) error {
	open := map[int]int{}
	defer func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if isGone(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("process %d of container %s: %w", pid, id, err)
		}
		open[pid] = fd
	}
	still, err := t.processes(ctx, id)
	if err != nil {
		return err
	}
	var fds []int
	for _, pid := range still {
		fd, ok := open[pid]
		if !ok {
			continue // the next round's
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !isGone(err) {
			return fmt.Errorf("kill process %d of container %s: %w", pid, id, err)
		}
		fds = append(fds, fd)
	}
	return waitAll(ctx, id, fds)
}

// isGone says of an error that the process has ended.
func isGone(err error) bool { return errors.Is(err, unix.ESRCH) }

// waitAll waits until all processes have ended.
func waitAll(ctx context.Context, id string, fds []int) error {
	deadline := int(cleanupTimeout.Milliseconds())
	for _, fd := range fds {
		// A pidfd is readable when its process has ended.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, deadline)
		for errors.Is(err, unix.EINTR) && ctx.Err() == nil {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, deadline)
		}
		if err == nil && n == 0 {
			err = context.DeadlineExceeded
		}
		if err != nil {
			return fmt.Errorf("wait for a killed process of container %s: %w", id, err)
		}
	}
	return nil
}

// processes returns the processes of a container whose restore has failed: those that
// runc knows, and those in its cgroup. runc knows none before CRIU is done, and
// CRIU, once it works, does not end with runc. It is in the container's cgroup from
// the beginning, and so is what it makes (runc: libcontainer/criu_linux.go, criuApplyCgroups).
func (t *Tasks) processes(ctx context.Context, id string) ([]int, error) {
	pids, err := cgroup.Processes(id)
	if err != nil {
		return nil, fmt.Errorf("processes of container %s: %w", id, err)
	}
	// The error is that runc knows no such container.
	if list, err := t.TasksClient.ListPids(ctx, &api.ListPidsRequest{ContainerID: id}); err == nil {
		for _, p := range list.Processes {
			if !slices.Contains(pids, int(p.Pid)) {
				pids = append(pids, int(p.Pid))
			}
		}
	}
	return pids, nil
}

// removeCgroup removes the cgroup that a killed runc has left: nobody else knows of it.
// With systemd it is a scope, which systemd removes with its last process.
func removeCgroup(c *containers.Container) error {
	var spec specs.Spec
	if c.Spec == nil {
		return nil
	}
	if err := json.Unmarshal(c.Spec.GetValue(), &spec); err != nil {
		return fmt.Errorf("OCI spec of container %s: %w", c.ID, err)
	}
	if spec.Linux == nil || !filepath.IsAbs(spec.Linux.CgroupsPath) || !strings.Contains(spec.Linux.CgroupsPath, c.ID) {
		return nil
	}
	hierarchies, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return fmt.Errorf("cgroup of container %s: %w", c.ID, err)
	}
	var errs []error
	for _, h := range hierarchies {
		// A cgroup in which there is anything cannot be removed so.
		err := unix.Rmdir(filepath.Join(h.Mountpoint, spec.Linux.CgroupsPath))
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EROFS) {
			errs = append(errs, fmt.Errorf("cgroup of container %s: %s: %w", c.ID, h.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}
