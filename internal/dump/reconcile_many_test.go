package dump

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// few and many are how many checkpoints were cut off. What is done for each must not grow with their number: a second look at
// all mounts for each would take a hundred times as long for ten times as many. It is processor time, which a busy machine does not stretch.
const few, many, allowed = 50, 500, 30

// TestReconcileMany puts right what was cut off in many checkpoints: containerd's start waits for it. A record that cannot
// be believed is in nobody's way.
func TestReconcileMany(t *testing.T) {
	one := max(reconcileTime(t, few), time.Millisecond)
	if took := reconcileTime(t, many); took > allowed*one {
		t.Errorf("%d leftovers took %v, %d took %v: more than %d times as long", many, took, few, one, allowed)
	}
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// reconcileTime is the processor time that it takes to put so many checkpoints right.
func reconcileTime(t *testing.T, leftovers int) (took time.Duration) {
	t.Helper()
	w := newWorld(t)
	w.db.NoSync = true
	for i := range leftovers {
		d, _, err := w.store.Begin(w.ctx, &containers.Container{ID: fmt.Sprintf("c%d", i)}, w.out(), "c.tar")
		if err != nil {
			t.Fatal(err)
		}
		dir, err := d.Mount("changes")
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("leftover", dir, "tmpfs", 0, "size=4k,nr_inodes=4"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d.Dir(), "archive"), []byte("pages"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	foreign, err := w.store.Leases.Create(w.ctx, leases.WithRandomID(), leases.WithLabels(map[string]string{LabelID: "x", labelDir: w.out()}))
	if err != nil {
		t.Fatal(err)
	}
	w.tasks.status, w.store.busy = tasktypes.Status_PAUSED, nil
	w.db.NoSync = false
	began := processorTime(t)
	if err := w.store.Reconcile(w.ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a record that names another directory: %v", err)
	}
	took = processorTime(t) - began
	if err := w.store.Leases.Delete(w.ctx, foreign); err != nil {
		t.Errorf("the record that names another directory: %v", err)
	}
	t.Logf("%d leftovers: %v", leftovers, took)
	w.requireNothing(t)
	return took
}
