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

// leftovers is how many checkpoints were cut off in the test of the time.
const leftovers = 500

// TestReconcileMany puts right what was cut off in 500 checkpoints in less than a second: containerd's start waits for it. A record
// that cannot be believed is in nobody's way.
func TestReconcileMany(t *testing.T) {
	var took time.Duration
	for range 3 { // the machine may be busy with something else
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
		began := time.Now()
		if err := w.store.Reconcile(w.ctx); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("a record that names another directory: %v", err)
		}
		took = time.Since(began)
		if err := w.store.Leases.Delete(w.ctx, foreign); err != nil {
			t.Errorf("the record that names another directory: %v", err)
		}
		t.Logf("%d leftovers: %v", leftovers, took)
		w.requireNothing(t)
		if took < time.Second || t.Failed() {
			return
		}
	}
	t.Errorf("%d leftovers took %v", leftovers, took)
}
