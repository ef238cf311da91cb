package restore

import (
	"context"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
)

// What is noted at the same time does not take back each other: the end of a lazy restore's memory comes while a
// command runs in the container.
func TestNotedTogether(t *testing.T) {
	w := newWorld(t)
	w.container("c")
	check(t, w.store.Attach(w.ctx, "c", &Record{ID: NewID(), Lazy: true, Draining: true},
		func(*containers.Container) error { return nil }))
	for range 20 {
		var all sync.WaitGroup
		for _, note := range []func() error{
			func() error { return w.store.Arrive(w.ctx, "c") },
			func() error { return w.store.NoteCommand(w.ctx, "c", &Command{Args: []string{"true"}}) },
			func() error { return w.store.NoteFailure(w.ctx, "c", context.Canceled) },
		} {
			all.Go(func() {
				if err := note(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		_, r, err := w.store.Get(w.ctx, "c")
		check(t, err)
		if !r.Drained || r.Command == nil || r.Failure == "" {
			t.Fatalf("the record: %+v", r)
		}
		check(t, w.store.update(w.ctx, "c", func(r *Record) { r.Drained, r.Command, r.Failure = false, nil, "" }))
	}
}
