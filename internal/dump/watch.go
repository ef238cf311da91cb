package dump

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
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
// soon as CRIU has hold of all processes it thaws the cgroup itself, and freezes it again only right before it ends
// (criu/seize.c, pstree_switch_state). So a container that was ever found thawed is CRIU's, however long that takes, and one
// that is found frozen twice when it is time is one that nobody would thaw. stop says whether the container was let go.
func (d *Dump) watch(request context.Context) (stop func() (letGo bool)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(request))
	ended := make(chan struct{})
	var letGo bool
	recovery.Go(ctx, "watch of a checkpoint", func() {
		defer close(ended)
		patience := time.NewTimer(holdTime)
		defer patience.Stop()
		tick := time.NewTicker(thawGrace)
		defer tick.Stop()
		asked := request.Done()
		for due, before := false, false; ; {
			select {
			case <-patience.C:
				due = true
				continue
			case <-asked:
				due, asked = true, nil
				continue
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			frozen, err := d.store.Frozen(ctx, d.container.ID)
			if err == nil && !frozen {
				return
			}
			if err == nil && before {
				err = d.store.Thaw(ctx, d.container.ID)
				letGo = true
				log.G(ctx).WithError(err).WithField("container", d.container.ID).
					Error("CRIU does not get hold of a container, which runs on: its checkpoint fails")
			}
			before = err == nil && due && !letGo
		}
	})
	return func() bool { cancel(); <-ended; return letGo }
}

// errLetGo is the error of a checkpoint whose container ran on before all of it was there.
var errLetGo = fmt.Errorf("the container runs on, because CRIU did not get hold of all its processes in time, "+
	"and the checkpoint is not of one moment: try again: %w", errdefs.ErrUnavailable)
