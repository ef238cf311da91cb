// Package turn is whose turn it is: how many restores work at a time. A restore reads memory as fast as it can, so many at
// once gain nothing, and take the processors and the disk from whoever creates ordinary containers.
package turn

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-metrics"
	"golang.org/x/sync/semaphore"
)

// restores is how many restores work and how many wait.
var restores = func() metrics.LabeledGauge {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	g := ns.NewLabeledGauge("concurrent", "Restores that work (running) and that wait for their turn (waiting)", metrics.Unit("restores"), "state")
	metrics.Register(ns)
	return g
}()

// reserve is the most that is kept of a request's time for the work itself, and for an answer.
const reserve = 30 * time.Second

// Queue lets a number of restores work at a time, in the order of their coming. A nil Queue lets all.
type Queue struct {
	limit int
	sem   *semaphore.Weighted
}

// New returns a queue. A limit of 0 is none, a negative one is twice the number of processors.
func New(limit int) *Queue {
	if limit < 0 {
		limit = 2 * runtime.GOMAXPROCS(0)
	}
	q := &Queue{limit: limit}
	if limit > 0 {
		q.sem = semaphore.NewWeighted(int64(limit))
	}
	return q
}

// Limit is how many may work at a time, 0 for any number.
func (q *Queue) Limit() int { return q.limit }

// Take waits for a turn, which done ends. It gives up when a quarter of the time to the request's deadline is left, at most
// 30 seconds: then there is an answer that says why, and not only the end of a context.
//
// Errors: the context's, or errdefs.ErrResourceExhausted.
func (q *Queue) Take(ctx context.Context) (done func(), err error) {
	if q == nil {
		return func() {}, nil
	}
	if q.sem != nil {
		if err := q.wait(ctx); err != nil {
			return nil, err
		}
	}
	restores.WithValues("running").Inc(1)
	return func() {
		restores.WithValues("running").Dec(1)
		if q.sem != nil {
			q.sem.Release(1)
		}
	}, nil
}

func (q *Queue) wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil || q.sem.TryAcquire(1) {
		return err
	}
	restores.WithValues("waiting").Inc(1)
	defer restores.WithValues("waiting").Dec(1)
	waiting, began := ctx, time.Now()
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		var cancel context.CancelFunc
		waiting, cancel = context.WithDeadline(ctx, deadline.Add(-min(reserve, left/4)))
		defer cancel()
	}
	err := q.sem.Acquire(waiting, 1)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("waited %v for one of %d restores on this node to end: try again, or raise max_concurrent_restores: %w",
		time.Since(began).Round(time.Second/10), q.limit, errdefs.ErrResourceExhausted)
}
