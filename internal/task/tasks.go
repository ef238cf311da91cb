// Package task decorates containerd's task service, so that the ordinary way
// of starting a container restores one that carries a restore record.
package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"google.golang.org/grpc"

	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// Tasks is containerd's task service with restore. Until Bind is called, and
// for every container without a record, it is the inner service.
type Tasks struct {
	api.TasksClient
	bound atomic.Pointer[binding]
	guard atomic.Pointer[guard]
}

// guard is what is left to do on a node that does not restore.
type guard struct {
	containers containers.Store
	reason     error
}

// binding is what restores need. containerd makes its task service before the
// plugin that restores, which therefore binds itself later.
type binding struct {
	restores *restore.Store
	cgroups  *cgroups
	// prepared is how long the preparation of a task took, by container ID, for the log of its start.
	prepared  sync.Map
	namespace string
}

var _ api.TasksClient = (*Tasks)(nil)

// New returns the decorated service.
func New(inner api.TasksClient) *Tasks { return &Tasks{TasksClient: inner} }

// Guard refuses to start containers that are still to be restored: on a node that
// does not restore any more they would start from their base image, and forget what they were.
func (t *Tasks) Guard(c containers.Store, reason error) {
	t.guard.Store(&guard{containers: c, reason: reason})
}

// refuse says why a container cannot be started on a node that does not restore.
func (g *guard) refuse(ctx context.Context, id string) error {
	if g == nil {
		return nil
	}
	if c, err := g.containers.Get(ctx, id); err == nil && restore.Pending(&c) {
		return errgrpc.ToGRPC(fmt.Errorf("container %s is to go on from a checkpoint, which this node does not restore: "+
			"%s: %w",
			id, g.reason.Error(), errdefs.ErrFailedPrecondition))
	}
	return nil // an ordinary container, or one of which the inner service says what is wrong
}

// Bind turns restoring on, for the namespace of the context, which also ends
// the watching for OOM kills. Restores that an earlier containerd
// left are put right first.
func (t *Tasks) Bind(ctx context.Context, s *restore.Store, publisher events.Publisher) error {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	cg, err := newCgroups(ctx, publisher)
	if err != nil {
		return err
	}
	b := &binding{restores: s, cgroups: cg, namespace: namespace}
	if err := errors.Join(
		recovery.Do(ctx, "recover restored tasks", func() error { return t.recover(ctx, b) }),
		recovery.Do(ctx, "reconcile restores", func() error { return s.Reconcile(ctx, t.started) }),
	); err != nil {
		log.G(ctx).WithError(err).Warn("some of what earlier restores had left could not be put right")
	}
	t.bound.Store(b)
	return nil
}

// started reports whether the container's process was started, and may have
// ended since.
func (t *Tasks) started(ctx context.Context, id string) (bool, error) {
	resp, err := t.TasksClient.Get(ctx, &api.GetRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("task of restored container %s: %w", id, err)
	}
	return resp.Process.Status != tasktypes.Status_CREATED, nil
}

// Delete deletes a task. What a killed restore has mounted below the task's
// directories is unmounted first, or it would be deleted with them.
func (t *Tasks) Delete(ctx context.Context, r *api.DeleteTaskRequest, opts ...grpc.CallOption) (_ *api.DeleteResponse,
	retErr error) {
	defer recovery.Into(ctx, &retErr, "delete task")
	b := t.bound.Load()
	if b == nil {
		return t.TasksClient.Delete(ctx, r, opts...)
	}
	if _, rec, err := b.restores.Get(ctx, r.ContainerID); err == nil {
		if err := t.stopServer(ctx, b, r.ContainerID, rec); err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
		if err := b.restores.Detach(r.ContainerID, rec); err != nil {
			return nil, errgrpc.ToGRPC(fmt.Errorf("task of container %s is not deleted, because what is mounted below its "+
				"directories "+
				"would be deleted as well: unmount it and try again: %w", r.ContainerID, err))
		}
	}
	b.prepared.Delete(r.ContainerID)
	resp, err := t.TasksClient.Delete(ctx, r, opts...)
	if err == nil || errdefs.IsNotFound(errgrpc.ToNative(err)) {
		// Not of one that runs on.
		b.cgroups.forget(r.ContainerID)
	}
	return resp, err
}
