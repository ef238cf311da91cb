package cri

import (
	"context"
	"slices"

	"github.com/containerd/log"

	"github.com/cri-restore/cri-restore/internal/recovery"
)

// undoList takes back the steps of a request that failed, the last one first.
type undoList []undoStep

type undoStep struct {
	what string
	do   func(context.Context) error
}

func (u *undoList) add(what string, do func(context.Context) error) {
	*u = append(*u, undoStep{what, do})
}

// run undoes every step, whether the request's own context has ended or not.
// One that fails is told and does not keep the others from being undone.
func (u undoList) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	for _, s := range slices.Backward(u) {
		if err := recovery.Do(ctx, s.what, func() error { return s.do(ctx) }); err != nil {
			log.G(ctx).WithError(err).Errorf("failed to undo a restore: %s", s.what)
		}
	}
}
