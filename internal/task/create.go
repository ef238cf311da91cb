package task

import (
	"context"
	"fmt"
	"time"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/phase"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// Create creates the task of a container. For one with a restore record the
// shim gets CRIU's directories, and its Start will be a restore.
func (t *Tasks) Create(ctx context.Context, r *api.CreateTaskRequest,
	opts ...grpc.CallOption) (_ *api.CreateTaskResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "create task")
	b := t.bound.Load()
	if b == nil {
		if err := t.guard.Load().refuse(ctx, r.ContainerID); err != nil {
			return nil, err
		}
		return t.TasksClient.Create(ctx, r, opts...)
	}
	c, rec, err := b.restores.Get(ctx, r.ContainerID)
	switch {
	case err == nil:
	case !errdefs.IsNotFound(err):
		return nil, errgrpc.ToGRPC(err)
	case c != nil && restore.Unfinished(c):
		return nil, errgrpc.ToGRPC(fmt.Errorf("container %s was to be restored, but containerd stopped before it was ready: "+
			"remove it and create it again: %w", r.ContainerID, errdefs.ErrFailedPrecondition))
	default:
		return t.TasksClient.Create(ctx, r, opts...)
	}
	if r.GetCheckpoint() != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("container %s is restored from %s, another checkpoint cannot be given: %w",
			r.ContainerID, rec.Image, errdefs.ErrInvalidArgument))
	}
	resp, err := t.createRestored(ctx, b, c, rec, r, opts...)
	if err == nil {
		return resp, nil
	}
	if !rec.Ended && !rec.Draining && !errdefs.IsAlreadyExists(errgrpc.ToNative(err)) {
		// To the CRI plugin the container has exited, there will be no other try.
		b.end(ctx, r.ContainerID)
	}
	return nil, err
}

// createRestored creates the task of a container with a restore record.
func (t *Tasks) createRestored(ctx context.Context, b *binding, c *containers.Container, rec *restore.Record,
	r *api.CreateTaskRequest, opts ...grpc.CallOption) (_ *api.CreateTaskResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "prepare restore")
	changed, err := b.prepare(ctx, c, rec, r)
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("restore of container %s: %w", r.ContainerID, err))
	}
	return t.TasksClient.Create(ctx, changed, opts...)
}

// prepare makes everything ready for CRIU and returns the request by which the
// shim learns of it.
func (b *binding) prepare(ctx context.Context, c *containers.Container, rec *restore.Record,
	r *api.CreateTaskRequest) (*api.CreateTaskRequest, error) {
	// Seen at the creation, too, and it may have been exchanged since.
	if err := b.restores.CheckRuntime(ctx, r.Options, c.Runtime.Options); err != nil {
		return nil, err
	}
	began := time.Now()
	images, work, err := b.restores.Prepare(ctx, rec)
	if err != nil {
		return nil, err
	}
	if err := b.restores.KeepPodNamespaces(c, rec, images); err != nil {
		return nil, err
	}
	phase.Observe(phase.Prepare, time.Since(began))
	b.prepared.Store(c.ID, time.Since(began))
	user, err := restore.User(c)
	if err != nil {
		return nil, err
	}
	merged, err := restore.TaskOptions(r.Options, c.Runtime.Options, images, work, user)
	if err != nil {
		return nil, err
	}
	changed := proto.Clone(r).(*api.CreateTaskRequest)
	changed.Options = merged
	return changed, nil
}
