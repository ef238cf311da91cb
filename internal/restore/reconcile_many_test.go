package restore

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"golang.org/x/sys/unix"
)

// few and many are how many restores a crash has left, each with all that a restore can have. What is done for each
// must not grow with their number: a second look at all mounts for each would take a hundred times as long for ten
// times as many. It is processor time, which a busy machine does not stretch.
const few, many, allowed = 50, 500, 30

// leave makes what containerd leaves when it is killed while a container is created from an image: a lease, a view
// that it protects and that is mounted, directories, and the mount of a root file system.
func (w *world) leave(parent string) *Record {
	w.t.Helper()
	r := &Record{ID: NewID(), Snapshotter: snapshotter}
	r.SnapshotKey = SnapshotKey(r.ID)
	ctx := w.lease(r.SnapshotKey, map[string]string{LabelID: r.ID})
	_, err := w.db.Snapshotter(snapshotter).View(ctx, r.SnapshotKey, parent, nil...)
	check(w.t, err)
	check(w.t, w.store.Dirs.Make(r.ID))
	for _, dir := range []string{w.store.Dirs.View(r.ID), w.store.Dirs.Rootfs(r.ID)} {
		check(w.t, unix.Mount("leftover", dir, "tmpfs", 0, "size=4k,nr_inodes=4"))
	}
	write(w.t, w.store.Dirs.Archive(r.ID), map[string]string{"config.dump": "{}", "checkpoint/inventory.img": "x"})
	write(w.t, w.store.Dirs.Work(r.ID), map[string]string{logFile: ""})
	return r
}

// TestReconcileMany puts right what many crashes have left: containerd's start waits for it.
func TestReconcileMany(t *testing.T) {
	one := max(reconcileTime(t, few), time.Millisecond)
	if took := reconcileTime(t, many); took > allowed*one {
		t.Errorf("%d leftovers took %v, %d took %v: more than %d times as long", many, took, few, one, allowed)
	}
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var used unix.Rusage
	check(t, unix.Getrusage(unix.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// reconcileTime is the processor time that it takes to put so many restores right, of what the start waits for.
func reconcileTime(t *testing.T, leftovers int) (took time.Duration) {
	t.Helper()
	w := newWorld(t)
	w.view("parent", checkpointFiles())
	w.bolt.NoSync = true
	for range leftovers {
		w.leave("parent-layer")
	}
	others := w.lease("others", nil)
	w.bolt.NoSync = false
	began := processorTime(t)
	check(t, w.store.Reconcile(w.ctx, never))
	took = processorTime(t) - began
	w.store.Wait()
	t.Logf("%d leftovers: %v", leftovers, took)
	if got := w.leases(); len(got) != 1 || got[0] != "others" {
		t.Errorf("%d leases are left", len(got))
	}
	if id, _ := leases.FromContext(others); id != "others" {
		t.Errorf("lease %q", id)
	}
	for _, dir := range []string{w.store.Dirs.Root, w.store.Dirs.State} {
		if left := names(t, dir); len(left) > 0 {
			t.Errorf("%s has %d entries, such as %s", filepath.Base(dir), len(left), left[0])
		}
	}
	noMounts(t, w.store.Dirs.State)
	check(t, w.store.Reconcile(w.ctx, never)) // again, with nothing to do
	return took
}

// A removal that a crash has cut short is gone on with, and what is mounted there meanwhile is not deleted.
func TestReconcileGoesOn(t *testing.T) {
	w := newWorld(t)
	precious := t.TempDir()
	write(t, precious, map[string]string{"file": ""})
	for _, dir := range []string{w.store.Dirs.Root, w.store.Dirs.State} {
		write(t, filepath.Join(dir, removedDir, NewID()), map[string]string{"archive/checkpoint/pages-1.img": ""})
		bind(t, precious, filepath.Join(dir, removedDir, NewID(), "mounted"))
	}
	check(t, w.store.Reconcile(w.ctx, never))
	w.store.Wait()
	for _, dir := range []string{w.store.Dirs.Root, w.store.Dirs.State} {
		if left := names(t, dir); len(left) > 0 {
			t.Errorf("%s has %q", filepath.Base(dir), left)
		}
	}
	if got := names(t, precious); len(got) != 1 {
		t.Errorf("what was mounted has %q", got)
	}
}
