package cri

import (
	"context"

	"github.com/containerd/log"

	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// warm begins to read a checkpoint's pages into the kernel's cache, while the container is still being created. The
// returned function ends that and waits for the end.
func warm(ctx context.Context, dir string) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	recovery.Go(ctx, "read pages ahead", func() {
		defer close(done)
		defer cancel()
		if err := restore.Warm(ctx, dir); err != nil && ctx.Err() == nil {
			log.G(ctx).WithError(err).Debug("failed to read a checkpoint's pages ahead")
		}
	})
	return func() {
		cancel()
		<-done
	}
}
