package dump

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

func TestTake(t *testing.T) {
	w := newWorld(t)
	still, err := w.take(w.ctx)
	if err != nil || !still {
		t.Errorf("still %v, %v", still, err)
	}
	if want := []string{"pause", "checkpoint", "resume"}; !slices.Equal(w.tasks.calls, want) {
		t.Errorf("calls %v, want %v", w.tasks.calls, want)
	}
	w.requireNothing(t)
}

// Whatever fails, the container runs on and nothing is left.
func TestTakeFails(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		set   func(*world, context.CancelFunc)
		is    func(error) bool
		says  string
		calls []string
	}{
		"pause":      {func(w *world, _ context.CancelFunc) { w.tasks.fail["pause"] = boom }, nil, "freeze container c", []string{"pause", "resume"}},
		"checkpoint": {func(w *world, _ context.CancelFunc) { w.tasks.fail["checkpoint"] = boom }, nil, "boom", []string{"pause", "checkpoint", "resume"}},
		"criu's words": {func(w *world, _ context.CancelFunc) {
			w.tasks.fail["checkpoint"], w.tasks.criuLog = boom, "(00.1) Error (criu/x.c:1): cannot dump that\n"
		}, errdefs.IsFailedPrecondition, "cannot dump that", []string{"pause", "checkpoint", "resume"}},
		"CRIU killed": {func(w *world, _ context.CancelFunc) {
			w.tasks.fail["checkpoint"], w.tasks.during = boom, func() { w.tasks.thawed = true }
		}, nil, "boom", []string{"pause", "checkpoint", "resume", "freeze", "resume"}},
		"killed meanwhile, unseen by the shim": {func(w *world, _ context.CancelFunc) {
			w.tasks.fail["checkpoint"], w.tasks.during = boom, func() { w.tasks.thawed, w.tasks.dead = true, true }
		}, nil, "boom", []string{"pause", "checkpoint", "resume"}},
		"cancelled while CRIU dumps": {func(w *world, cancel context.CancelFunc) { w.tasks.during = cancel },
			func(err error) bool { return errors.Is(err, context.Canceled) }, "", []string{"pause", "checkpoint", "resume"}},
		"cancelled before": {func(_ *world, cancel context.CancelFunc) { cancel() }, func(err error) bool { return errors.Is(err, context.Canceled) }, "", nil},
		"root file system": {func(w *world, _ context.CancelFunc) {
			w.tasks.during = func() { _ = os.Remove(filepath.Join(w.dir, "upper")) }
		}, nil, "root file system of container c", []string{"pause", "checkpoint", "resume"}},
		"no snapshotter": {func(w *world, _ context.CancelFunc) {
			w.store.Snapshotter = func(string) snapshots.Snapshotter { return nil }
		}, errdefs.IsNotFound, "snapshotter", nil},
		"ended before": {func(w *world, _ context.CancelFunc) { w.tasks.status = tasktypes.Status_STOPPED }, errdefs.IsFailedPrecondition, "STOPPED", nil},
		"no task":      {func(w *world, _ context.CancelFunc) { w.tasks.fail["get"] = errdefs.ErrNotFound }, errdefs.IsNotFound, "task of container c", nil},
		"no directory": {func(w *world, _ context.CancelFunc) { _ = os.Remove(w.out()) }, errdefs.IsNotFound, "create it", nil},
		"removed meanwhile": {func(w *world, _ context.CancelFunc) {
			w.tasks.during = func() {
				w.tasks.fail["get"], w.tasks.fail["checkpoint"], w.tasks.status = errdefs.ErrNotFound, boom, tasktypes.Status_STOPPED
			}
		}, nil, "boom", []string{"pause", "checkpoint", "resume"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ctx, cancel := context.WithCancel(w.ctx)
			defer cancel()
			c.set(w, cancel)
			_, err := w.take(ctx)
			if err == nil || c.is != nil && !c.is(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
			if !slices.Equal(w.tasks.calls, c.calls) {
				t.Errorf("calls %v, want %v", w.tasks.calls, c.calls)
			}
			if slices.Contains(w.tasks.callsDone, true) {
				t.Error("a call to the task was cut short")
			}
			if w.tasks.dead {
				w.tasks.status = tasktypes.Status_STOPPED
			}
			w.requireNothing(t)
		})
	}
}

// CRIU that does not get hold of a frozen container is helped by letting the container go, when it has had its time or the request has ended,
// and never before. The container runs on, and nothing is left.
func TestTakeHung(t *testing.T) {
	defer func(h, g time.Duration) { holdTime, thawGrace = h, g }(holdTime, thawGrace)
	for name, c := range map[string]struct {
		hold   time.Duration
		cancel bool
	}{"time": {time.Millisecond, false}, "request": {time.Hour, true}} {
		t.Run(name, func(t *testing.T) {
			holdTime, thawGrace = c.hold, 10*time.Millisecond
			w := newWorld(t)
			ctx, cancel := context.WithCancel(w.ctx)
			defer cancel()
			w.tasks.fail["checkpoint"] = errors.New("killed by nobody")
			hung := make(chan struct{})
			w.tasks.hung = hung
			w.tasks.during = func() {
				if c.cancel {
					cancel()
				}
				<-hung
			}
			if _, err := w.take(ctx); err == nil {
				t.Error("no error")
			}
			w.requireNothing(t)
		})
	}
	// CRIU that ends well all the same has dumped what is no longer so.
	t.Run("and succeeds", func(t *testing.T) {
		holdTime, thawGrace = time.Millisecond, 10*time.Millisecond
		w := newWorld(t)
		hung := make(chan struct{})
		w.tasks.hung = hung
		w.tasks.during = func() { <-hung }
		if _, err := w.take(w.ctx); !errors.Is(err, errLetGo) {
			t.Errorf("error %v", err)
		}
		w.requireNothing(t)
	})
	// It has hold of the container, and takes its time; then it freezes it again.
	t.Run("not at all", func(t *testing.T) {
		holdTime, thawGrace = time.Millisecond, time.Millisecond
		w := newWorld(t)
		var looked atomic.Int32
		enough := make(chan struct{})
		w.store.Frozen = func(context.Context, string) (bool, error) {
			if looked.Add(1) == 1 {
				return true, nil
			}
			close(enough) // and nobody asks again
			return false, nil
		}
		w.store.Thaw = func(context.Context, string) error { t.Error("thawed a container that CRIU has hold of"); return nil }
		w.tasks.during = func() { <-enough }
		if _, err := w.take(w.ctx); err != nil {
			t.Error(err)
		}
		w.requireNothing(t)
	})
}

// CRIU may hang since containerd was killed: the next start lets the container go first, and waits for CRIU then.
func TestReconcileHung(t *testing.T) {
	w := newWorld(t)
	d, _, err := w.store.Begin(w.ctx, &containers.Container{ID: "c"}, w.out(), "c.tar")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Dir = d.Dir()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	thaw := w.store.Thaw
	w.store.Thaw = func(ctx context.Context, c string) error {
		_ = in.Close() // what CRIU has waited for
		return thaw(ctx, c)
	}
	w.tasks.status, w.store.busy = tasktypes.Status_PAUSED, nil
	if err := w.store.Reconcile(w.ctx); err != nil {
		t.Error(err)
	}
	w.requireNothing(t)
}

// A container that cannot be thawed is told of, and the next start thaws it.
func TestTakeNotThawed(t *testing.T) {
	w := newWorld(t)
	w.tasks.fail["resume"] = errors.New("boom")
	if _, err := w.take(w.ctx); err == nil || !strings.Contains(err.Error(), "still frozen") || !strings.Contains(err.Error(), "boom") {
		t.Errorf("error %v", err)
	}
	delete(w.tasks.fail, "resume")
	if err := w.store.Reconcile(w.ctx); err != nil {
		t.Error(err)
	}
	w.requireNothing(t)
}

// A container that somebody else has frozen stays frozen.
func TestTakePaused(t *testing.T) {
	w := newWorld(t)
	w.tasks.status = tasktypes.Status_PAUSED
	if _, err := w.take(w.ctx); err != nil {
		t.Error(err)
	}
	if !slices.Equal(w.tasks.calls, []string{"checkpoint"}) || w.tasks.status != tasktypes.Status_PAUSED {
		t.Errorf("calls %v, status %v", w.tasks.calls, w.tasks.status)
	}
}

// What was cut off at some moment is put right by the next start.
func TestReconcile(t *testing.T) {
	for name, freezes := range map[string]bool{"ours": true, "somebody else's": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if !freezes {
				w.tasks.status = tasktypes.Status_PAUSED
			}
			d, _, err := w.store.Begin(w.ctx, &containers.Container{ID: "c"}, w.out(), strings.Repeat("long", 100))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(d.Dir(), "archive"), []byte("pages"), 0o600); err != nil {
				t.Fatal(err)
			}
			w.tasks.status, w.store.busy = tasktypes.Status_PAUSED, nil
			if err := w.store.Reconcile(w.ctx); err != nil {
				t.Error(err)
			}
			if running := w.tasks.status == tasktypes.Status_RUNNING; running != freezes {
				t.Errorf("status %v", w.tasks.status)
			}
			w.tasks.status = tasktypes.Status_RUNNING
			w.requireNothing(t)
		})
	}
}

// CRIU goes on when containerd and runc are gone, and is waited for: it would freeze the container again.
func TestReconcileWaits(t *testing.T) {
	w := newWorld(t)
	d, _, err := w.store.Begin(w.ctx, &containers.Container{ID: "c"}, w.out(), "c.tar")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "0.5")
	cmd.Dir = d.Dir()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan time.Time, 1)
	go func() {
		_ = cmd.Wait()
		ended <- time.Now()
	}()
	w.tasks.status, w.store.busy = tasktypes.Status_PAUSED, nil
	if err := w.store.Reconcile(w.ctx); err != nil {
		t.Error(err)
	}
	if reconciled := time.Now(); (<-ended).Sub(reconciled) > 100*time.Millisecond {
		t.Error("it was not waited for")
	}
	w.requireNothing(t)
}

// A record that names a directory which is not of a checkpoint is kept and told of, and the directory too.
func TestReconcileForeign(t *testing.T) {
	w := newWorld(t)
	const id = "11111111-2222-3333-4444-555555555555"
	for name, labels := range map[string]map[string]string{
		"another directory": {LabelID: id, labelDir: w.out()},
		"no ID":             {LabelID: "x", labelDir: w.out() + ".x"},
		"relative":          {LabelID: id, labelDir: ".c." + id},
	} {
		l, err := w.store.Leases.Create(w.ctx, leases.WithRandomID(), leases.WithLabels(labels))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.Reconcile(w.ctx); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.store.Leases.Delete(w.ctx, l); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(w.out()); err != nil {
		t.Error(err)
	}
}

// Of two requests one holds a container, and others have theirs meanwhile.
func TestHold(t *testing.T) {
	w := newWorld(t)
	release, err := w.store.Hold("c")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Hold("c"); !errdefs.IsAborted(err) || !strings.Contains(err.Error(), "container c is being checkpointed by another request") {
		t.Errorf("error %v", err)
	}
	other, err := w.store.Hold("d")
	if err != nil {
		t.Fatal(err)
	}
	other()
	release()
	again, err := w.store.Hold("c")
	if err != nil {
		t.Fatal(err)
	}
	again()
}
