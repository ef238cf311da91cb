package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/tracing"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"

	"github.com/cri-restore/cri-restore/internal/pageserver"
	"github.com/cri-restore/cri-restore/internal/phase"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// serve starts the page server of a lazy restore. Where it does not start the restore is eager: nil.
func (b *binding) serve(ctx context.Context, id string, rec *restore.Record) *pageserver.Server {
	if !rec.Lazy {
		return nil
	}
	var server *pageserver.Server
	err := rec.Times.Do(ctx, phase.Serve, func(ctx context.Context) (err error) {
		server, err = b.restores.Serve(ctx, id, rec)
		return err
	})
	if err != nil {
		log.G(ctx).WithError(err).WithField("container", id).
			Warn("no page server, all memory is restored before the container runs")
	}
	return server
}

// drain sees to it that a container whose processes run gets its memory, and releases what that needs
// afterwards. It returns at once. Whatever goes wrong here with the book-keeping, the supervisor of the page server
// does its work, and the next start of containerd finds it.
func (b *binding) drain(ctx context.Context, id string, rec *restore.Record, pid uint32, server *pageserver.Server) {
	ctx = context.WithoutCancel(ctx)
	l := log.G(ctx).WithField("container", id)
	if err := b.restores.Drain(ctx, id); err != nil {
		l.WithError(err).Warn("failed to record a lazy restore")
	}
	rec.Draining = true
	if err := join(int(pid), server.PID()); err != nil {
		l.WithError(err).Warn("the page server is not in the container's cgroup")
	}
	began := time.Now()
	recovery.Go(ctx, "settle lazy restore", func() { b.settle(ctx, id, rec, server, began) })
}

// resume looks after a lazy restore again after a restart of containerd.
func (b *binding) resume(ctx context.Context, id string, rec *restore.Record) error {
	if !rec.Draining {
		// containerd was stopped between the start and its record.
		if err := b.restores.Drain(ctx, id); err != nil {
			return err
		}
		rec.Draining = true
	}
	server, err := b.restores.Server(rec)
	if errdefs.IsNotFound(err) {
		b.settle(ctx, id, rec, nil, time.Time{})
		return nil
	}
	if err != nil {
		return fmt.Errorf("lazy restore of container %s: %w", id, err)
	}
	ctx = context.WithoutCancel(ctx)
	recovery.Go(ctx, "settle lazy restore", func() { b.settle(ctx, id, rec, server, time.Time{}) })
	return nil
}

// settle waits until the memory has arrived or is lost, says so, and releases what the restore needed.
func (b *binding) settle(ctx context.Context, id string, rec *restore.Record, server *pageserver.Server,
	began time.Time) {
	ctx, span := tracing.StartSpan(ctx, "cri.restore.drain", tracing.WithAttribute("container.id", id))
	defer span.End()
	if server != nil {
		defer server.Close()
	}
	l := log.G(ctx).WithField("container", id).WithField("checkpoint", rec.Image)
	ended, lost, err := b.restores.Settle(ctx, id, rec, server)
	span.SetStatus(err)
	if err != nil {
		l.WithError(err).Error("failed to look after a lazy restore")
		if lost == "" {
			return
		}
	}
	if lost != "" {
		span.SetStatus(errors.New(lost))
		l.WithField("reason", lost).Error("memory of a lazily restored container did not arrive, the container was killed")
		losses.Inc(1)
		if err := b.restores.Lose(ctx, id, lost); err != nil && !errdefs.IsNotFound(err) {
			l.WithError(err).Warn("failed to record why a container was killed")
		}
	} else {
		if err := b.restores.Arrive(ctx, id); err != nil && !errdefs.IsNotFound(err) {
			l.WithError(err).Warn("failed to record that all memory has arrived, the next start of containerd does")
			return // with all that says so
		}
		if !began.IsZero() {
			rec.Times.Add(phase.Drain, max(0, ended.Sub(began))) // it may be there before the start has returned
		}
		l.WithField("times", rec.Times.String()).Info("all memory of a lazily restored container has arrived")
	}
	b.end(ctx, id)
}

// stopServer ends the page server of a container whose process has ended, before its task is deleted: they
// are in one cgroup.
func (t *Tasks) stopServer(ctx context.Context, b *binding, id string, rec *restore.Record) error {
	if !rec.Draining {
		return nil
	}
	resp, err := t.TasksClient.Get(ctx, &api.GetRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err == nil && resp.Process.Status != tasktypes.Status_STOPPED {
		return nil // the inner service refuses to delete it
	}
	return b.restores.StopServer(ctx, rec)
}
