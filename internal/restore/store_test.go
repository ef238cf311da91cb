package restore

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// viewExists asks after a garbage collection.
func (w *world) viewExists(r *Record) bool {
	w.t.Helper()
	_, err := w.db.GarbageCollect(w.ctx)
	check(w.t, err)
	_, err = w.db.Snapshotter(snapshotter).Stat(w.ctx, r.SnapshotKey)
	if err != nil && !errdefs.IsNotFound(err) {
		w.t.Error(err)
	}
	return err == nil
}

func (w *world) record(id string) *Record {
	w.t.Helper()
	_, r, err := w.store.Get(w.ctx, id)
	check(w.t, err)
	return r
}

func TestEnd(t *testing.T) {
	w := newWorld(t)
	r := w.restored("c1")
	if !w.viewExists(r) {
		t.Fatal("the record does not keep the view")
	}
	_, work, err := w.store.Prepare(w.ctx, r)
	check(t, err)
	write(t, work, map[string]string{logFile: ""})
	_, err = w.store.WriteConfig(r, &specs.Spec{})
	check(t, err)
	before, _, err := w.store.Get(w.ctx, "c1")
	check(t, err)
	for range 2 {
		check(t, w.store.End(w.ctx, "c1"))
		noMounts(t, w.store.Dirs.State)
		if w.viewExists(r) {
			t.Error("the view is still there")
		}
		if got := names(t, w.store.Dirs.Root); !slices.Equal(got, []string{r.ID, r.ID + "/criu.conf"}) {
			t.Errorf("left %q", got)
		}
		if got := names(t, w.store.Dirs.State); len(got) > 0 {
			t.Errorf("left %q", got)
		}
		if !w.record("c1").Ended {
			t.Error("the record does not say so")
		}
	}
	after, _, err := w.store.Get(w.ctx, "c1")
	check(t, err)
	if string(after.Spec.GetValue()) != string(before.Spec.GetValue()) || after.Labels["app"] != "x" ||
		after.Labels[LabelID] != r.ID {
		t.Errorf("%+v", after)
	}
	check(t, w.store.Remove(w.ctx, r))
	check(t, w.store.Remove(w.ctx, r))
	if got := names(t, w.store.Dirs.Root); len(got) > 0 {
		t.Errorf("left %q", got)
	}
}

func TestEndOfAnArchive(t *testing.T) {
	w := newWorld(t)
	w.container("c1")
	r := &Record{ID: NewID(), Image: "/a/c.tar"}
	check(t, w.store.Attach(w.ctx, "c1", r, func(*containers.Container) error { return nil }))
	check(t, w.store.Dirs.Make(r.ID))
	write(t, w.store.Dirs.Archive(r.ID), checkpointFiles())
	check(t, w.store.End(w.ctx, "c1"))
	if got := names(t, w.store.Dirs.Root); !slices.Equal(got, []string{r.ID}) {
		t.Errorf("left %q", got)
	}
	if !w.record("c1").Ended {
		t.Error("the record does not say so")
	}
}

func TestEndOfWhatIsNoRestore(t *testing.T) {
	w := newWorld(t)
	w.container("ordinary")
	for _, id := range []string{"ordinary", "absent"} {
		if err := w.store.End(w.ctx, id); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// What another request changes meanwhile must not be written back as it was.
func TestEndChangesOnlyItsOwn(t *testing.T) {
	w := newWorld(t)
	w.restored("c1")
	w.store.Containers = meanwhile{w.store.Containers, func() {
		_, err := w.store.Containers.(meanwhile).Store.Update(w.ctx, containers.Container{
			ID: "c1", Spec: raw("x", []byte(`{"resources":"updated"}`)),
		}, "spec")
		check(t, err)
	}}
	check(t, w.store.End(w.ctx, "c1"))
	c, r, err := w.store.Get(w.ctx, "c1")
	check(t, err)
	if string(c.Spec.GetValue()) != `{"resources":"updated"}` || !r.Ended {
		t.Errorf("%s, %+v", c.Spec.GetValue(), r)
	}
}

// A killed runc leaves such mounts; the shim and runc then delete the directories.
func TestDetach(t *testing.T) {
	for name, f := range map[string]func(w *world, r *Record) error{
		"detach": func(w *world, r *Record) error { return w.store.Detach("c1", r) },
		"end":    func(w *world, _ *Record) error { return w.store.End(w.ctx, "c1") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.restored("c1")
			real := t.TempDir()
			t.Cleanup(func() { noMounts(t, real) })
			w.store.Bundles = filepath.Join(filepath.Dir(w.store.Dirs.Root), "link")
			check(t, os.Symlink(real, w.store.Bundles))
			precious := t.TempDir()
			write(t, precious, map[string]string{"file": ""})
			runc := filepath.Join(real, "runc-state")
			left := []string{
				filepath.Join(real, "c1", "rootfs", "etc", "hosts"), filepath.Join(real, "c1", "rootfs", "data"),
				filepath.Join(runc, "c1", "criu-root"), filepath.Join(runc, "c1", "criu-root", "data"),
				filepath.Join(w.store.Dirs.Work(r.ID), ".criu.cgyard.x"),
				filepath.Join(w.store.Dirs.Work(r.ID), ".criu.cgyard.x", "memory"),
			}
			stay := []string{
				filepath.Join(real, "c1", "rootfs"), // the shim's to unmount
				filepath.Join(real, "c10", "rootfs", "data"), filepath.Join(runc, "c10", "criu-root"),
				filepath.Join(runc, "c1", "criu-roots"),
			}
			for _, dir := range stay {
				bind(t, precious, dir)
			}
			for _, dir := range left {
				tmpfs(t, dir)
			}
			for range 2 {
				check(t, f(w, r))
				var got []string
				got = append(append(got, mountsBelow(t, real)...), mountsBelow(t, w.store.Dirs.Root)...)
				slices.Sort(got)
				slices.Sort(stay)
				if !slices.Equal(got, stay) {
					t.Errorf("mounted %q, want %q", got, stay)
				}
			}
			unmountAll(t, real)
			check(t, w.store.Remove(w.ctx, r))
		})
	}
}
