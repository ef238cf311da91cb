package task

import (
	"context"
	"errors"
	"fmt"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"

	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// recover looks at every restored container when containerd starts, before its
// CRI plugin does. Those that run are watched again. The task of one whose
// restore was cut off is deleted: the CRI plugin would keep using its pipes
// (containerd: internal/cri/server/restart.go), and the next start would fail.
func (t *Tasks) recover(ctx context.Context, b *binding) error {
	restored, err := b.restores.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range restored {
		// One that cannot be put right must not keep the others from it.
		errs = append(errs, recovery.Do(ctx, "recover restored task", func() error { return t.recoverOne(ctx, b, id) }))
	}
	return errors.Join(errs...)
}

func (t *Tasks) recoverOne(ctx context.Context, b *binding, id string) error {
	_, rec, err := b.restores.Get(ctx, id)
	if err != nil {
		rec = &restore.Record{} // of a newer plugin
	}
	resp, err := t.TasksClient.Get(ctx, &api.GetRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		if rec.Draining {
			return b.resume(ctx, id, rec)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("task of restored container %s: %w", id, err)
	}
	if resp.Process.Status != tasktypes.Status_CREATED {
		b.cgroups.watch(ctx, id, resp.Process.Pid)
		if !rec.Ended && rec.ID != "" {
			return t.finish(ctx, b, id, rec)
		}
		return nil
	}
	log.G(ctx).WithField("container", id).Warn("the restore of a container was cut off, it can be started again")
	if err := t.abandon(ctx, b, id); err != nil {
		return err // with the task its directories are deleted, in which something may still be mounted
	}
	return t.discard(ctx, id)
}

// finish does for a restore that was done while no containerd waited for it what its start would have done.
func (t *Tasks) finish(ctx context.Context, b *binding, id string, rec *restore.Record) error {
	if !rec.Draining {
		err := b.judge(ctx, id, rec)
		if err != nil && b.restores.Armed(rec) {
			log.G(ctx).WithError(err).WithField("container", id).
				Error("a container that was restored must not run, it is killed")
			return errors.Join(t.killAll(ctx, id), b.restores.Restored(rec))
		}
	}
	if err := b.restores.Restored(rec); err != nil {
		return err
	}
	if !rec.Lazy {
		return nil
	}
	return b.resume(ctx, id, rec)
}

func (t *Tasks) discard(ctx context.Context, id string) error {
	_, err := t.TasksClient.Delete(ctx, &api.DeleteTaskRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("task of container %s, whose restore was cut off: %w", id, err)
	}
	return nil
}
