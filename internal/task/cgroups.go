package task

import (
	"context"
	"errors"
	"fmt"
	"sync"

	cgmode "github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/oom"
	oomv1 "github.com/containerd/containerd/v2/pkg/oom/v1"
	oomv2 "github.com/containerd/containerd/v2/pkg/oom/v2"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/cgroup"
	"github.com/cri-restore/cri-restore/internal/recovery"
)

// cgroups stands in for the shim where that does not know a restored task's
// cgroup: it loads the cgroup when it creates a process, and a task that is to
// be restored has none then (containerd: cmd/containerd-shim-runc-v2/runc/container.go,
// NewContainer). Without it there would be no statistics and no OOM events.
//
// What it holds is derived from the running tasks and made anew when containerd starts.
type cgroups struct {
	watcher oom.Watcher

	mu  sync.Mutex
	set map[string]any // cgroup1.Cgroup or *cgroup2.Manager, by container ID
}

// newCgroups starts to watch. The context carries the namespace of the events
// and ends the watching.
func newCgroups(ctx context.Context, publisher events.Publisher) (*cgroups, error) {
	var (
		w   oom.Watcher
		err error
	)
	if cgmode.Mode() == cgmode.Unified {
		w, err = oomv2.New(publisher)
	} else {
		w, err = oomv1.New(publisher)
	}
	if err != nil {
		return nil, fmt.Errorf("watch for OOM kills: %w", err)
	}
	recovery.Go(ctx, "watch for OOM kills", func() { w.Run(ctx) })
	return &cgroups{watcher: w, set: map[string]any{}}, nil
}

// watch begins to answer for the cgroup of a restored task. A process that is
// gone already has none, which is no error.
func (c *cgroups) watch(ctx context.Context, id string, pid uint32) {
	cg, err := cgroup.Load(int(pid))
	if err == nil {
		c.mu.Lock()
		c.set[id] = cg
		c.mu.Unlock()
		err = c.watcher.Add(id, cg)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		log.G(ctx).WithError(err).WithField("container", id).Warn("OOM kills of a restored container will go unseen")
	}
}

func (c *cgroups) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.set, id)
}

// ids returns the IDs of the containers that are answered for.
func (c *cgroups) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make([]string, 0, len(c.set))
	for id := range c.set {
		ids = append(ids, id)
	}
	return ids
}

// stats returns what the shim would (containerd: cmd/containerd-shim-runc-v2/task/service.go, Stats).
func (c *cgroups) stats(id string) (any, error) {
	c.mu.Lock()
	cg := c.set[id]
	c.mu.Unlock()
	switch cg := cg.(type) {
	case cgroup1.Cgroup:
		stats, err := cg.Stat(cgroup1.IgnoreNotExist)
		if errors.Is(err, cgroup1.ErrCgroupDeleted) {
			// The process has ended, and nobody has deleted its task yet.
			return nil, fmt.Errorf("cgroup of container %s: %w: %w", id, err, errdefs.ErrNotFound)
		}
		return stats, err
	case *cgroup2.Manager:
		stats, err := cg.Stat()
		if errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("cgroup of container %s: %w: %w", id, err, errdefs.ErrNotFound)
		}
		return stats, err
	}
	return nil, fmt.Errorf("cgroup of container %s: %w", id, errdefs.ErrNotFound)
}

// join puts a page server into the cgroup of the container that it serves, which is where CRIU is in an
// ordinary restore: its memory, its processor time and what it reads count for the container.
func join(container, server int) error {
	cg, err := cgroup.Load(container)
	if err != nil {
		return err
	}
	switch cg := cg.(type) {
	case cgroup1.Cgroup:
		return cg.AddProc(uint64(server))
	case *cgroup2.Manager:
		return cg.AddProc(uint64(server))
	}
	return nil
}
