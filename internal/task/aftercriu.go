package task

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/cgroup"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// afterCRIU kills what CRIU has made when CRIU ends before all of it is there, until it is stopped. Otherwise runc,
// which knows of none of these processes, tries for a second in each cgroup hierarchy to remove a cgroup that they
// are in (opencontainers/cgroups, rmdir): eleven seconds with cgroup v1. Then it gives up, and leaves its state
// directory.
func (t *Tasks) afterCRIU(ctx context.Context, b *binding, id string, rec *restore.Record) (stop func()) {
	l := log.G(ctx).WithField("container", id)
	listener, err := b.restores.ListenCRIU(rec)
	if err != nil {
		l.WithError(err).Warn("if CRIU is killed the end of its restore takes some seconds longer")
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan struct{})
	recovery.Go(ctx, "end of CRIU", func() {
		defer close(over)
		if !ended(ctx, listener.CRIU) {
			return // the start has, before it
		}
		if v, _ := b.restores.Verdict(rec); v != nil && v.Inspected {
			return // all was there; or the guard has killed it
		}
		l.Debug("CRIU has ended before its restore has")
		if err := t.killAll(ctx, id); err != nil && ctx.Err() == nil {
			l.WithError(err).Warn("failed to kill what CRIU had made")
		}
	})
	return func() {
		cancel()
		listener.Close()
		<-over
	}
}

// ended waits for CRIU to begin, and for it to end.
func ended(ctx context.Context, begun func() (pidfd int, err error)) bool {
	criu, err := begun()
	if err != nil {
		return errdefs.IsNotFound(err)
	}
	defer unix.Close(criu)
	return cgroup.Wait(ctx, criu) == nil
}
