package turn

import (
	"context"
	"sync"
)

// Turn is one restore's turn.
type Turn struct {
	queue *Queue // nil for one that nobody counts
	of    string // its tenant

	mu   sync.Mutex
	uses int
	done bool
}

// Done ends the turn, once. Another restore may begin.
func (t *Turn) Done() {
	if t.queue == nil {
		return
	}
	t.mu.Lock()
	over := !t.done
	t.done = true
	t.mu.Unlock()
	if !over {
		return
	}
	restores.WithValues("running").Dec(1)
	if t.queue.limit > 0 {
		t.queue.over()
	}
	t.release()
}

// release ends one use of the turn.
func (t *Turn) release() {
	t.mu.Lock()
	t.uses--
	last := t.uses == 0
	t.mu.Unlock()
	if last && t.queue.limit > 0 {
		t.queue.forget(t.of)
	}
}

// key is that of a turn in a context.
type key struct{}

// With returns a context that carries the turn in which something is done.
func With(ctx context.Context, t *Turn) context.Context { return context.WithValue(ctx, key{}, t) }

// Hold counts the turn of the context against its tenant until release is called, also when the turn is over before
// that. It is for what cannot be stopped, such as a look at a file system that does not answer: other tenants go on in
// the turn that is over, and this one can begin only as many of these as it may have turns.
func Hold(ctx context.Context) (release func()) {
	t, ok := ctx.Value(key{}).(*Turn)
	if !ok || t.queue == nil {
		return func() {}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done {
		return func() {}
	}
	t.uses++
	return sync.OnceFunc(t.release)
}
