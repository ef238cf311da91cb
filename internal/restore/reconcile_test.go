package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
)

// meanwhile is a store in which something else happens between a Get and what follows it.
type meanwhile struct {
	containers.Store
	happens func()
}

func (m meanwhile) Get(ctx context.Context, id string) (containers.Container, error) {
	c, err := m.Store.Get(ctx, id)
	m.happens()
	return c, err
}

func never(context.Context, string) (bool, error) { return false, nil }

func (w *world) lease(id string, labels map[string]string) context.Context {
	w.t.Helper()
	l, err := w.store.Leases.Create(w.ctx, leases.WithID(id), leases.WithLabels(labels))
	check(w.t, err)
	return leases.WithLease(w.ctx, l.ID)
}

func (w *world) leases() []string {
	w.t.Helper()
	all, err := w.store.Leases.List(w.ctx)
	check(w.t, err)
	var ids []string
	for _, l := range all {
		ids = append(ids, l.ID)
	}
	return ids
}

// A crash while a container is created leaves a lease, a view and directories.
func TestReconcileAbandoned(t *testing.T) {
	w := newWorld(t)
	known := w.restored("known")
	_, _, err := w.store.Prepare(w.ctx, known)
	check(t, err)
	w.lease("others", nil)

	gone := &Record{ID: NewID(), Snapshotter: snapshotter}
	gone.SnapshotKey = SnapshotKey(gone.ID)
	leased := w.lease(gone.SnapshotKey, map[string]string{LabelID: gone.ID})
	sn := w.db.Snapshotter(snapshotter)
	_, err = sn.View(leased, gone.SnapshotKey, known.SnapshotKey+"-layer")
	check(t, err)
	check(t, w.store.Dirs.Make(gone.ID))
	_, _, err = w.store.Prepare(w.ctx, func() *Record { r := *gone; return &r }())
	check(t, err)
	precious := t.TempDir()
	write(t, precious, map[string]string{"file": ""})
	bind(t, precious, filepath.Join(w.store.Dirs.Rootfs(gone.ID), "volume"))
	write(t, w.store.Dirs.Work(gone.ID), map[string]string{logFile: ""})
	if !w.viewExists(gone) {
		t.Fatal("the lease does not keep the view")
	}

	foreign := []string{"failed/c1-restore.log", "0123456789abcdef0123456789abcdef/x", "{" + NewID() + "}/x",
		"not-an-id/x"}
	for _, dir := range []string{w.store.Dirs.Root, w.store.Dirs.State} {
		for _, name := range foreign {
			write(t, dir, map[string]string{name: ""})
		}
	}
	file := NewID()
	check(t, os.WriteFile(filepath.Join(w.store.Dirs.Root, file), nil, 0o600))
	check(t, os.Symlink(precious, filepath.Join(w.store.Dirs.State, NewID())))

	for range 2 {
		check(t, w.store.Reconcile(w.ctx, never))
		w.store.Wait()
		if got := w.leases(); !slices.Equal(got, []string{"others"}) {
			t.Errorf("leases %q", got)
		}
		if w.viewExists(gone) || !w.viewExists(known) {
			t.Error("wrong view")
		}
		for _, dir := range []string{w.store.Dirs.Root, w.store.Dirs.State} {
			got := names(t, dir)
			if slices.Contains(got, gone.ID) || !slices.Contains(got, known.ID) {
				t.Errorf("left %q", got)
			}
			for _, name := range foreign {
				if !slices.Contains(got, name) {
					t.Errorf("%s is gone", name)
				}
			}
		}
		if !slices.Contains(names(t, w.store.Dirs.Root), file) {
			t.Error("a file is gone")
		}
		if got := names(t, precious); !slices.Equal(got, []string{"file"}) {
			t.Errorf("precious has %q", got)
		}
		if got := mountsBelow(t, w.store.Dirs.State); !slices.Equal(got, []string{w.store.Dirs.View(known.ID)}) {
			t.Errorf("mounts %q", got)
		}
		if w.record("known").Ended {
			t.Error("a restore that was not tried has ended")
		}
	}
	check(t, w.store.Remove(w.ctx, known))
}

func TestReconcileEndsWhatWasStarted(t *testing.T) {
	w := newWorld(t)
	w.container("ordinary")
	for _, id := range []string{"running", "created", "unclear", "ended"} {
		w.restored(id)
		_, _, err := w.store.Prepare(w.ctx, w.record(id))
		check(t, err)
	}
	check(t, w.store.End(w.ctx, "ended"))
	var asked []string
	broken := errors.New("broken")
	err := w.store.Reconcile(w.ctx, func(_ context.Context, id string) (bool, error) {
		asked = append(asked, id)
		if id == "unclear" {
			return true, broken
		}
		return id == "running", nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	slices.Sort(asked)
	if !slices.Equal(asked, []string{"created", "running", "unclear"}) {
		t.Errorf("asked for %q", asked)
	}
	for id, ended := range map[string]bool{"running": true, "created": false, "unclear": false, "ended": true} {
		r := w.record(id)
		if r.Ended != ended || w.viewExists(r) == ended {
			t.Errorf("%s: %+v", id, r)
		}
		check(t, w.store.Remove(w.ctx, r))
	}
}

// A record of a newer plugin keeps its directories and its view.
func TestReconcileLeavesNewerRecordsAlone(t *testing.T) {
	w := newWorld(t)
	r := w.restored("newer")
	c, err := w.store.Containers.Get(w.ctx, "newer")
	check(t, err)
	c.Extensions[extensionRecord] = raw("x", []byte(`{"version":99}`))
	_, err = w.store.Containers.Update(w.ctx, c)
	check(t, err)
	check(t, w.store.Reconcile(w.ctx, func(context.Context, string) (bool, error) { return true, nil }))
	if _, _, err := w.store.Get(w.ctx, "newer"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("%v", err)
	}
	if !w.viewExists(r) || !slices.Contains(names(t, w.store.Dirs.Root), r.ID) {
		t.Error("it was removed")
	}
}

// Image labels become container labels, so a label alone means nothing.
func TestForgedLabel(t *testing.T) {
	w := newWorld(t)
	r := w.restored("c1")
	w.container("forged")
	_, err := w.store.Containers.Update(w.ctx, containers.Container{ID: "forged",
		Labels: map[string]string{LabelID: r.ID}}, "labels")
	check(t, err)
	if ids, err := w.store.List(w.ctx); err != nil || !slices.Equal(ids, []string{"c1"}) {
		t.Errorf("%q, %v", ids, err)
	}
	check(t, w.store.Reconcile(w.ctx, func(_ context.Context, id string) (bool, error) { return id == "forged", nil }))
	if !w.viewExists(r) || w.record("c1").Ended {
		t.Error("the label of one container ended the restore of another")
	}
	check(t, w.store.Remove(w.ctx, r))
}

func TestReconcileWithoutDirectories(t *testing.T) {
	w := newWorld(t)
	check(t, w.store.Reconcile(w.ctx, never))
	if got := names(t, filepath.Dir(w.store.Dirs.Root)); slices.Contains(got, "root") || slices.Contains(got, "state") {
		t.Errorf("made %q", got)
	}
}
