package dump

import (
	"context"
	"time"

	"github.com/containerd/log"

	"github.com/cri-restore/cri-restore/internal/recovery"
)

var (
	// holdTime is how long CRIU may take to get hold of all processes: it gives up by itself after 10 seconds (criu(8), --timeout), unless the
	// kernel lets it wait for one that is stopped and frozen.
	holdTime = 30 * time.Second
	// thawGrace is between two looks at the cgroup.
	thawGrace = 5 * time.Second
)

// watch lets a container go that CRIU has not got hold of in time, or not when the request has ended: CRIU then ends as well. As
// soon as CRIU has hold of all processes it thaws the cgroup itself, and freezes it again only right before it ends, so that
// one which is found frozen twice is one that nobody would thaw.
func (d *Dump) watch(request context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(request))
	ended := make(chan struct{})
	recovery.Go(ctx, "watch of a checkpoint", func() {
		defer close(ended)
		patience := time.NewTimer(holdTime)
		defer patience.Stop()
		select {
		case <-patience.C:
		case <-request.Done():
		case <-ctx.Done():
			return
		}
		tick := time.NewTicker(thawGrace)
		defer tick.Stop()
		for before := false; ; {
			frozen, err := d.store.Frozen(ctx, d.container.ID)
			if err == nil && frozen && before {
				err = d.store.Thaw(ctx, d.container.ID)
				log.G(ctx).WithError(err).WithField("container", d.container.ID).Error("CRIU does not get hold of a container, which runs on: its checkpoint fails")
			}
			before = err == nil && frozen
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); <-ended }
}
