package restore

import (
	"os"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// CRIU's configuration asks for a page server only while it restores.
func TestSetLazy(t *testing.T) {
	w := newWorld(t)
	r := &Record{ID: NewID()}
	check(t, w.store.setLazy(r, false)) // there is none
	if err := w.store.setLazy(r, true); err == nil {
		t.Error("an option in a file that there is not")
	}
	check(t, w.store.Dirs.Make(r.ID))
	_, err := w.store.WriteConfig(r, &specs.Spec{})
	check(t, err)
	before, err := os.ReadFile(w.store.Dirs.Config(r.ID))
	check(t, err)
	for _, on := range []bool{true, true, false, false} {
		check(t, w.store.setLazy(r, on))
		want := string(before)
		if on {
			want += "lazy-pages\n"
		}
		if got, err := os.ReadFile(w.store.Dirs.Config(r.ID)); err != nil || string(got) != want {
			t.Errorf("%t: %q, %v, want %q", on, got, err, want)
		}
	}
	if server, err := w.store.Serve(w.ctx, "c1", r); server != nil || err != nil {
		t.Errorf("a page server of an eager restore: %v, %v", server, err)
	}
}

// draining returns a world with the container "c1", whose memory is arriving, and its record.
func draining(t *testing.T) (*world, *Record) {
	t.Helper()
	w := newWorld(t)
	w.container("c1")
	r := fullRecord()
	r.ID, r.Snapshotter, r.SnapshotKey, r.Lazy = NewID(), "", "", true
	check(t, w.store.Dirs.Make(r.ID))
	check(t, w.store.Attach(w.ctx, "c1", r, func(*containers.Container) error { return nil }))
	check(t, w.store.Drain(w.ctx, "c1"))
	return w, r
}

// What a page server needs is kept while it drains; afterwards it is not, and why it failed stays.
func TestDrain(t *testing.T) {
	w, r := draining(t)
	c, got, err := w.store.Get(w.ctx, "c1")
	check(t, err)
	if !got.Draining || Pending(c) {
		t.Errorf("%+v, pending %t", got, Pending(c))
	}
	if _, _, err := w.store.Prepare(w.ctx, got); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("prepared again: %v", err)
	}
	check(t, w.store.WaitDrained(w.ctx, "c1")) // nobody serves
	if lost := w.store.Lost(got); lost != "" {
		t.Errorf("lost before anybody said so: %s", lost)
	}
	// The server and its supervisor are gone without a word.
	ended, lost, err := w.store.Settle(w.ctx, "c1", got, nil)
	if err != nil || lost == "" || time.Since(ended) > time.Minute {
		t.Errorf("%v, %q, %v", ended, lost, err)
	}
	check(t, w.store.Lose(w.ctx, "c1", lost))
	check(t, w.store.End(w.ctx, "c1"))
	_, got, err = w.store.Get(w.ctx, "c1")
	check(t, err)
	if got.Draining || !got.Ended || w.store.Lost(got) != lost {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(w.store.Dirs.Work(r.ID)); !os.IsNotExist(err) {
		t.Errorf("the work directory is still there: %v", err)
	}
}

// containerd is killed when all memory has arrived and what says so is removed already: the container is not taken for
// one that has lost it.
func TestDrainedAndCutOff(t *testing.T) {
	w, r := draining(t)
	check(t, w.store.Arrive(w.ctx, "c1"))
	check(t, os.RemoveAll(w.store.Dirs.Work(r.ID)))
	_, got, err := w.store.Get(w.ctx, "c1")
	check(t, err)
	if lost := w.store.Lost(got); lost != "" {
		t.Errorf("lost: %s", lost)
	}
	if _, lost, err := w.store.Settle(w.ctx, "c1", got, nil); err != nil || lost != "" {
		t.Errorf("lost: %q, %v", lost, err)
	}
	check(t, w.store.End(w.ctx, "c1"))
	_, got, err = w.store.Get(w.ctx, "c1")
	check(t, err)
	if got.Draining || got.Drained || !got.Ended {
		t.Errorf("%+v", got)
	}
}
