package task

import (
	"context"
	"fmt"
	"time"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/tracing"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/docker/go-metrics"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/cri-restore/cri-restore/internal/pageserver"
	"github.com/cri-restore/cri-restore/internal/phase"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
	"github.com/cri-restore/cri-restore/internal/turn"
)

const (
	// cleanupTimeout bounds what follows a start whose caller may be gone.
	cleanupTimeout = 30 * time.Second

	// killInterval is the time between two attempts to kill a restore whose caller is gone.
	killInterval = 5 * time.Second
)

// starts times the restores themselves, by the gRPC code of their outcome.
var starts = func() metrics.LabeledTimer {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	t := ns.NewLabeledTimer("start", "The time it takes to restore the processes of a container, by gRPC code", "code")
	metrics.Register(ns)
	return t
}()

// Start starts a task's process. For a container with a restore record that is
// the restore; its failure is told in CRIU's own words.
func (t *Tasks) Start(ctx context.Context, r *api.StartRequest, opts ...grpc.CallOption) (_ *api.StartResponse,
	retErr error) {
	defer recovery.Into(ctx, &retErr, "start task")
	b := t.bound.Load()
	if b == nil || r.ExecID != "" {
		return t.TasksClient.Start(ctx, r, opts...)
	}
	_, rec, err := b.restores.Get(ctx, r.ContainerID)
	if err != nil || rec.Ended || rec.Draining {
		// Without a record it is an ordinary container, or one that the inner service knows to refuse. So it
		// does a second start of a restored one, whose failure must not take back the first.
		return t.TasksClient.Start(ctx, r, opts...)
	}
	return t.restore(ctx, b, r, rec, opts...)
}

// restore is the restore itself: the shim calls runc, and runc CRIU.
func (t *Tasks) restore(ctx context.Context, b *binding, r *api.StartRequest, rec *restore.Record,
	opts ...grpc.CallOption) (_ *api.StartResponse, retErr error) {
	ctx, span := tracing.StartSpan(ctx, "cri.restore.start", tracing.WithAttribute("checkpoint", rec.Image),
		tracing.WithAttribute("container.id", r.ContainerID))
	defer func() { span.SetStatus(retErr); span.End() }()
	if took, ok := b.prepared.LoadAndDelete(r.ContainerID); ok {
		rec.Times.Append(phase.Prepare, took.(time.Duration))
	}
	done, err := b.turn(ctx, r.ContainerID, rec)
	if err != nil {
		return nil, err
	}
	defer done() // not of the memory that arrives afterwards
	var (
		server *pageserver.Server
		resp   *api.StartResponse
	)
	// A panic is a restore that failed, also one after the processes have begun to run: the CRI plugin takes them for
	// dead.
	err = recovery.Do(ctx, "restore", func() (err error) {
		if err := b.restores.Arm(r.ContainerID, rec); err != nil {
			return errgrpc.ToGRPC(err)
		}
		server = b.serve(ctx, r.ContainerID, rec)
		began := time.Now()
		err = rec.Times.Do(ctx, phase.CRIU, func(ctx context.Context) (err error) {
			defer t.afterCRIU(ctx, b, r.ContainerID, rec)()
			resp, err = t.startOrKill(ctx, r, opts...)
			return err
		})
		// Nothing was known of the processes before. If they must not run they are killed like those of any other restore
		// that fails. CRIU fails when the guard has killed them, and does not know why.
		if jerr := b.judge(ctx, r.ContainerID, rec); err == nil || errdefs.IsPermissionDenied(jerr) {
			err = errgrpc.ToGRPC(jerr)
		}
		starts.WithValues(status.Code(err).String()).UpdateSince(began)
		if err != nil {
			return err
		}
		if err := b.restores.Restored(rec); err != nil {
			log.G(ctx).WithError(err).WithField("container", r.ContainerID).
				Warn("the container cannot be checkpointed: its CRIU configuration is that of its restore")
		}
		b.cgroups.watch(ctx, r.ContainerID, resp.GetPid())
		b.restored(ctx, r.ContainerID, rec, server != nil)
		if server == nil {
			b.end(ctx, r.ContainerID)
			return nil
		}
		b.drain(ctx, r.ContainerID, rec, resp.GetPid(), server)
		return nil
	})
	if err != nil {
		err = t.failed(ctx, b, r.ContainerID, rec, err)
		if server != nil {
			server.Close()
		}
		b.end(ctx, r.ContainerID)
		return nil, err
	}
	return resp, nil
}

// turn waits until other restores have made room for this one. To the CRI plugin a start that fails is the last.
func (b *binding) turn(ctx context.Context, id string, rec *restore.Record) (done func(), err error) {
	var t *turn.Turn
	err = rec.Times.Do(ctx, phase.Wait, func(ctx context.Context) (err error) {
		t, err = b.restores.Turns.Take(ctx, rec.Namespace)
		return err
	})
	if err != nil {
		b.end(ctx, id)
		return nil, errgrpc.ToGRPC(fmt.Errorf("checkpoint %s: restore of container %s was not begun: %w", rec.Image, id, err))
	}
	return t.Done, nil
}

// restored logs a restore, with what CRIU says of it.
func (b *binding) restored(ctx context.Context, id string, rec *restore.Record, lazy bool) {
	l := log.G(ctx).WithField("container", id).WithField("checkpoint", rec.Image).WithField("lazy",
		lazy).WithField("times", rec.Times.String())
	if stats, err := b.restores.Stats(rec); err == nil {
		l = l.WithField("criu", stats.Restoring).WithField("criu_forking", stats.Forking).WithField("pages", stats.Pages)
		pages.Inc(float64(stats.Pages))
	} else {
		l.WithError(err).Debug("CRIU says nothing of a restore's time")
	}
	l.Info("restored container from checkpoint")
}

// startOrKill starts the task and returns when the shim has an answer. When the
// caller has lost patience it kills the restore's processes, so that runc fails and
// clears up behind itself. Passing the end of the context on would be worse: the shim would kill runc
// at the deadline, and go on with a start that was cancelled, either way while this
// process takes back what has been made so far.
func (t *Tasks) startOrKill(ctx context.Context, r *api.StartRequest, opts ...grpc.CallOption) (*api.StartResponse,
	error) {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var (
		resp *api.StartResponse
		err  error
		done = make(chan struct{})
	)
	go func() {
		defer close(done)
		err = recovery.Do(ctx, "restore processes", func() (err error) {
			resp, err = t.TasksClient.Start(inner, r, opts...)
			return err
		})
	}()
	select {
	case <-done:
		return resp, err
	case <-ctx.Done():
	}
	// Again after a while, as CRIU may not have been there the first time. If runc itself
	// hangs, nobody waits for it any longer.
	for range cleanupTimeout / killInterval {
		if kerr := t.killAll(inner, r.ContainerID); kerr != nil {
			log.G(ctx).WithError(kerr).WithField("container", r.ContainerID).
				Warn("failed to kill a restore whose caller has gone")
		}
		select {
		case <-done:
			return resp, gone(ctx, err)
		case <-time.After(killInterval):
		}
	}
	cancel()
	<-done
	return resp, gone(ctx, err)
}

// gone adds to the error of a start that its caller had gone.
func gone(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return status.Errorf(status.Code(err), "%v: %v", context.Cause(ctx), errgrpc.ToNative(err))
}

// failed explains a failed restore, and takes back what it may have made.
func (t *Tasks) failed(ctx context.Context, b *binding, id string, rec *restore.Record, err error) error {
	cut := ctx.Err() != nil // says nothing of the checkpoint
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	explained := b.restores.Failed(ctx, id, rec, err)
	if !cut {
		if err := b.restores.NoteFailure(ctx, id, explained); err != nil {
			log.G(ctx).WithError(err).WithField("container", id).Warn("failed to record why a restore failed")
		}
	}
	if err := t.abandon(ctx, b, id); err != nil {
		log.G(ctx).WithError(err).WithField("container", id).Error("failed to take back a failed restore")
	}
	return status.Error(status.Code(err), explained.Error())
}

// end gives back what the restore needed. The process runs or has failed already,
// so an error here is only told: the next start of containerd, or the removal
// of the container, tries again.
func (b *binding) end(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := b.restores.End(ctx, id); err != nil {
		log.G(ctx).WithError(err).WithField("container", id).Warn("failed to release what a restore had needed")
	}
}
