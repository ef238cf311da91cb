package restore

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/mounts"
)

func TestPrepareView(t *testing.T) {
	w := newWorld(t)
	r := w.restored("c1")
	// A restart of the node takes the mounts and the state directory with it.
	for _, again := range []func(){
		func() {},
		func() {},
		func() { unmountAll(t, w.store.Dirs.State) },
		func() { check(t, mounts.Remove(w.store.Dirs.State)) },
	} {
		again()
		images, work, err := w.store.Prepare(w.ctx, r)
		check(t, err)
		if images != filepath.Join(w.store.Dirs.State, r.ID, "view", "checkpoint") ||
			work != filepath.Join(w.store.Dirs.Root, r.ID, "work") {
			t.Errorf("%s, %s", images, work)
		}
		if data, err := os.ReadFile(filepath.Join(images, "inventory.img")); err != nil || string(data) != "inventory" {
			t.Errorf("%q, %v", data, err)
		}
		if err := os.WriteFile(filepath.Join(images, "new"), nil, 0o600); err == nil {
			t.Error("the view can be written")
		}
		check(t, os.WriteFile(filepath.Join(work, "restore.log"), nil, 0o600))
		if all := mountsBelow(t, w.store.Dirs.State); len(all) != 1 {
			t.Errorf("mounts %q", all)
		}
	}
	check(t, w.store.Remove(w.ctx, r))
}

func TestPrepareArchive(t *testing.T) {
	w := newWorld(t)
	r := &Record{ID: NewID(), Image: "/a/c.tar"}
	_, _, err := w.store.Prepare(w.ctx, r)
	wantError(t, err, errdefs.IsNotFound, "/a/c.tar")
	write(t, w.store.Dirs.Archive(r.ID), checkpointFiles())
	images, _, err := w.store.Prepare(w.ctx, r)
	check(t, err)
	if images != filepath.Join(w.store.Dirs.Root, r.ID, "archive", "checkpoint") {
		t.Error(images)
	}
	noMounts(t, w.store.Dirs.State)
}

func TestPrepareRefuses(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		change func(*Record)
		is     func(error) bool
		says   string
	}{
		"ended":            {func(r *Record) { r.Ended = true }, errdefs.IsFailedPrecondition, "remove the container"},
		"no such snapshot": {func(r *Record) { r.SnapshotKey = "absent" }, errdefs.IsNotFound, "registry.example/c:1"},
		"unknown image form": {func(r *Record) { w.view("odd", map[string]string{"x": ""}); r.SnapshotKey = "odd" },
			errdefs.IsInvalidArgument, "registry.example/c:1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.restored("c-" + strings.ReplaceAll(name, " ", "-"))
			changed := *r
			c.change(&changed)
			_, _, err := w.store.Prepare(w.ctx, &changed)
			wantError(t, err, c.is, c.says)
			check(t, w.store.Remove(w.ctx, r))
		})
	}
	w.store.Snapshotter = func(string) snapshots.Snapshotter { return nil }
	r := &Record{ID: NewID(), Image: "registry.example/c:1", Snapshotter: "gone", SnapshotKey: "x"}
	_, _, err := w.store.Prepare(w.ctx, r)
	wantError(t, err, errdefs.IsNotFound, `"gone"`, r.Image)
	wantError(t, w.store.Remove(w.ctx, r), errdefs.IsNotFound, `"gone"`, r.ID)
}

// several answers as a snapshotter does whose view has more than one layer.
type several struct {
	snapshots.Snapshotter
	mounts []mount.Mount
}

func (s several) Mounts(context.Context, string) ([]mount.Mount, error) { return s.mounts, nil }

func TestPrepareOverlay(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	files := checkpointFiles()
	write(t, filepath.Join(dir, "low"), files)
	write(t, filepath.Join(dir, "high"), map[string]string{"checkpoint/inventory.img": "higher"})
	w.store.Snapshotter = func(string) snapshots.Snapshotter {
		return several{mounts: []mount.Mount{{Type: "overlay", Source: "overlay",
			Options: []string{"lowerdir=" + dir + "/high:" + dir + "/low"}}}}
	}
	r := &Record{ID: NewID(), Image: "registry.example/c:1", Snapshotter: "overlayfs", SnapshotKey: "x"}
	images, _, err := w.store.Prepare(w.ctx, r)
	check(t, err)
	if data, err := os.ReadFile(filepath.Join(images, "inventory.img")); err != nil || string(data) != "higher" {
		t.Errorf("%q, %v", data, err)
	}
	check(t, w.store.Dirs.Remove(r.ID))
}

func TestWriteConfig(t *testing.T) {
	w := newWorld(t)
	node := filepath.Join(t.TempDir(), "runc.conf")
	check(t, os.WriteFile(node, []byte("# the node's\nlog-level 4\nmanage-cgroups=full"), 0o600))
	for name, c := range map[string]struct{ config, want string }{
		"the node's own": {node, "# the node's\nlog-level 4\nmanage-cgroups=full\nmanage-cgroups=ignore\nfile-locks\n"},
		"absent":         {node + ".absent", "manage-cgroups=ignore\nfile-locks\n"},
		"none":           {"", "manage-cgroups=ignore\nfile-locks\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Record{ID: NewID()}
			check(t, w.store.Dirs.Make(r.ID))
			w.store.CRIUConfig = c.config
			annotations, err := w.store.WriteConfig(r, &specs.Spec{})
			check(t, err)
			file := filepath.Join(w.store.Dirs.Root, r.ID, "criu.conf")
			if len(annotations) != 1 || annotations["org.criu.config"] != file {
				t.Errorf("annotations %v", annotations)
			}
			if data, err := os.ReadFile(file); err != nil || string(data) != c.want {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
	w.store.CRIUConfig = t.TempDir()
	if _, err := w.store.WriteConfig(&Record{ID: NewID()}, &specs.Spec{}); err == nil ||
		!strings.Contains(err.Error(), "criu_config") {
		t.Errorf("a directory: %v", err)
	}
	w.store.CRIUConfig = ""
	r := &Record{ID: NewID()}
	if _, err := w.store.WriteConfig(r, &specs.Spec{}); err == nil || !strings.Contains(err.Error(), r.ID) {
		t.Errorf("no directory: %v", err)
	}
	check(t, os.WriteFile(node, []byte("a\x00b"), 0o600))
	w.store.CRIUConfig = node
	_, err := w.store.WriteConfig(r, &specs.Spec{})
	wantError(t, err, errdefs.IsInvalidArgument, node)
}

func TestDirs(t *testing.T) {
	dir := mountDir(t)
	d := Dirs{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state")}
	id := NewID()
	image, archive := &Record{ID: id, SnapshotKey: "x"}, &Record{ID: id}
	if d.Checkpoint(image) != d.View(id) || d.Checkpoint(archive) != d.Archive(id) {
		t.Error("the checkpoint is elsewhere")
	}
	for range 2 {
		check(t, d.Make(id))
	}
	for _, made := range []string{d.View(id), d.Rootfs(id), d.Work(id)} {
		fi, err := os.Stat(made)
		check(t, err)
		if fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: mode %o", made, fi.Mode().Perm())
		}
	}
	write(t, d.Archive(id), checkpointFiles())
	check(t, os.WriteFile(d.Config(id), nil, 0o600))
	precious := t.TempDir()
	write(t, precious, map[string]string{"file": ""})
	bind(t, precious, filepath.Join(d.Work(id), "left"))
	other := NewID()
	check(t, d.Make(other))
	for range 2 {
		check(t, d.Remove(id))
	}
	for _, parent := range []string{d.Root, d.State} {
		if got := names(t, parent); strings.Contains(strings.Join(got, " "), id) ||
			!strings.Contains(strings.Join(got, " "), other) {
			t.Errorf("left %q", got)
		}
	}
	if got := names(t, precious); len(got) != 1 {
		t.Errorf("precious has %q", got)
	}
	check(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	if err := (Dirs{Root: filepath.Join(dir, "file"), State: d.State}).Make(id); err == nil ||
		!strings.Contains(err.Error(), id) {
		t.Errorf("%v", err)
	}
	check(t, d.Remove(id))
}
