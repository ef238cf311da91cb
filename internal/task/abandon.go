package task

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/log"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/cgroup"
	"github.com/cri-restore/cri-restore/internal/restore"
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

// killAll kills the processes of a container whose restore has failed, and waits for their end: those that
// runc knows, and those in its cgroup. runc knows none before CRIU is done, and
// CRIU, once it works, does not end with runc. It is in the container's cgroup from
// the beginning, and so is what it makes (runc: libcontainer/criu_linux.go, criuApplyCgroups).
func (t *Tasks) killAll(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	_, err := cgroup.Kill(ctx, cgroup.Victims{ID: id, Others: func(ctx context.Context) []int {
		list, err := t.TasksClient.ListPids(ctx, &api.ListPidsRequest{ContainerID: id})
		if err != nil {
			return nil // runc knows no such container
		}
		var pids []int
		for _, p := range list.Processes {
			pids = append(pids, int(p.Pid))
		}
		return pids
	}})
	return err
}

// removeCgroup removes the cgroup that a killed runc has left: nobody else knows of it.
// With systemd it is a scope, which systemd removes with its last process.
func removeCgroup(c *containers.Container) error {
	if c.Spec == nil {
		return nil
	}
	spec, err := restore.SpecOf(c)
	if err != nil {
		return err
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
