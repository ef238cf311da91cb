// Package turn is whose turn it is: how many restores work at a time, and those of which tenant. A restore reads memory
// as fast as it can, so many at once gain nothing, and take the processors and the disk from whoever creates ordinary
// containers.
//
// A tenant is a pod namespace. What a restore does in its turn a checkpoint can make slow, so no tenant is to hold all
// of them.
package turn

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-metrics"
)

// restores is how many restores work and how many wait.
var restores = func() metrics.LabeledGauge {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	g := ns.NewLabeledGauge("concurrent", "Restores that work (running) and that wait for their turn (waiting)",
		metrics.Unit("restores"), "state")
	metrics.Register(ns)
	return g
}()

// reserve is the most that is kept of a request's time for the work itself, and for an answer.
const reserve = 30 * time.Second

// Queue lets a number of restores work at a time. Each tenant waits in a line of its own. A turn that becomes free goes
// to the tenant that holds the fewest, of several to the one that got one longest ago. The last free turn goes only to
// a tenant that holds none: one tenant alone has at most one turn less than there are, unless there is only one. A nil
// Queue lets all work.
type Queue struct {
	limit int

	mu      sync.Mutex
	free    int
	clock   uint64 // of what happened in the queue
	tenants map[string]*tenant
}

// tenant is one that holds turns or waits for them.
type tenant struct {
	name  string
	held  int    // turns that are not over, or held on to
	last  uint64 // when it came or was served last, by Queue.clock
	queue []*waiter
}

// waiter waits for a turn. What is given is closed when it has it.
type waiter struct{ given chan struct{} }

// New returns a queue. A limit of 0 is none, a negative one is twice the number of processors.
func New(limit int) *Queue {
	if limit < 0 {
		limit = 2 * runtime.GOMAXPROCS(0)
	}
	return &Queue{limit: limit, free: limit, tenants: map[string]*tenant{}}
}

// Limit is how many may work at a time, 0 for any number.
func (q *Queue) Limit() int { return q.limit }

// Take waits for a turn of a tenant. It gives up when a quarter of the time to the request's deadline is left, at most
// 30 seconds: then there is an answer that says why, and not only the end of a context.
//
// Errors: the context's, or errdefs.ErrResourceExhausted.
func (q *Queue) Take(ctx context.Context, tenant string) (*Turn, error) {
	if q == nil {
		return &Turn{}, nil
	}
	t := &Turn{queue: q, of: tenant, uses: 1}
	if q.limit > 0 {
		if err := q.wait(ctx, tenant); err != nil {
			return nil, err
		}
	}
	restores.WithValues("running").Inc(1)
	return t, nil
}

func (q *Queue) wait(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := q.enter(name)
	select {
	case <-w.given:
		return nil
	default:
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
	select {
	case <-w.given:
		return nil
	case <-waiting.Done():
	}
	held, given := q.leave(name, w)
	switch {
	case given && ctx.Err() == nil:
		return nil // at the last moment
	case given:
		q.over()
		q.forget(name)
		return ctx.Err()
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("waited %v for one of %d restores on this node to end, of which namespace %q has %d: "+
		"try again, or raise max_concurrent_restores: %w", time.Since(began).Round(time.Second/10), q.limit, name, held,
		errdefs.ErrResourceExhausted)
}

// enter puts a waiter at the end of its tenant's line.
func (q *Queue) enter(name string) *waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tenants[name]
	if t == nil {
		// Behind those that wait: who comes again and again must not be always the new one.
		q.clock++
		t = &tenant{name: name, last: q.clock}
		q.tenants[name] = t
	}
	w := &waiter{given: make(chan struct{})}
	t.queue = append(t.queue, w)
	q.give()
	return w
}

// leave takes a waiter out of its line, unless it was given a turn. It returns how many turns the tenant holds.
func (q *Queue) leave(name string, w *waiter) (held int, given bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tenants[name]
	i := slices.Index(t.queue, w)
	if i < 0 {
		return t.held, true
	}
	t.queue = slices.Delete(t.queue, i, i+1)
	held = t.held
	q.drop(t)
	return held, false
}

// over makes a turn free for others.
func (q *Queue) over() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.free++
	q.give()
}

// forget ends the use of a turn by a tenant.
func (q *Queue) forget(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tenants[name]
	t.held--
	q.give()
	q.drop(t)
}

// drop forgets a tenant that has nothing.
func (q *Queue) drop(t *tenant) {
	if t.held == 0 && len(t.queue) == 0 {
		delete(q.tenants, t.name)
	}
}

// give gives turns as long as there is somebody who may have one.
func (q *Queue) give() {
	for {
		var next *tenant
		for _, t := range q.tenants {
			if len(t.queue) == 0 || !q.may(t) {
				continue
			}
			if next == nil || t.held < next.held || t.held == next.held && t.last < next.last {
				next = t
			}
		}
		if next == nil {
			return
		}
		w := next.queue[0]
		next.queue = next.queue[1:]
		next.held++
		q.free--
		q.clock++
		next.last = q.clock
		close(w.given)
	}
}

// may says whether the tenant may have another turn.
func (q *Queue) may(t *tenant) bool {
	return q.free > 0 && (t.held == 0 || q.free > 1 && t.held < q.limit-1)
}
