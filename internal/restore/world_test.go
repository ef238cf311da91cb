package restore

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/moby/sys/mountinfo"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

const snapshotter = "native"

// world is a Store on containerd's own metadata, in a temporary directory.
type world struct {
	t     *testing.T
	ctx   context.Context
	bolt  *bbolt.DB
	db    *metadata.DB
	store *Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	root := t.TempDir()
	// Whatever a test leaves mounted must not be deleted with the directory.
	t.Cleanup(func() { noMounts(t, root) })
	blobs, err := local.NewStore(filepath.Join(root, "content"))
	check(t, err)
	sn, err := native.NewSnapshotter(filepath.Join(root, "native"))
	check(t, err)
	bolt, err := bbolt.Open(filepath.Join(root, "meta.db"), 0o600, nil)
	check(t, err)
	t.Cleanup(func() { check(t, errors.Join(sn.Close(), bolt.Close())) })
	db := metadata.NewDB(bolt, blobs, map[string]snapshots.Snapshotter{snapshotter: sn})
	check(t, db.Init(t.Context()))
	return &world{
		t: t, bolt: bolt, db: db,
		ctx: namespaces.WithNamespace(t.Context(), "k8s.io"),
		store: &Store{
			Containers:  metadata.NewContainerStore(db),
			Leases:      metadata.NewLeaseManager(db),
			Transact:    db.Update,
			Snapshotter: func(name string) snapshots.Snapshotter { return db.Snapshotter(name) },
			Dirs:        Dirs{Root: filepath.Join(root, "root"), State: filepath.Join(root, "state")},
			Bundles:     filepath.Join(root, "bundles"),
			Limits:      checkpoint.DefaultLimits(),
		},
	}
}

// container makes one in the store, as containerd's CRI plugin does.
func (w *world) container(id string) {
	w.t.Helper()
	spec := raw("types.containerd.io/opencontainers/runtime-spec/1/Spec", []byte(`{"ociVersion":"1.2.0"}`))
	_, err := w.store.Containers.Create(w.ctx, containers.Container{
		ID: id, Labels: map[string]string{"app": "x"}, Spec: spec, Snapshotter: snapshotter, SnapshotKey: id,
		Runtime: containers.RuntimeInfo{Name: RuntimeRunc},
	})
	check(w.t, err)
}

// view makes a view snapshot that holds the files.
func (w *world) view(key string, files map[string]string) {
	w.t.Helper()
	sn := w.db.Snapshotter(snapshotter)
	mounts, err := sn.Prepare(w.ctx, key+"-active", "")
	check(w.t, err)
	write(w.t, mounts[0].Source, files)
	check(w.t, sn.Commit(w.ctx, key+"-layer", key+"-active"))
	_, err = sn.View(w.ctx, key, key+"-layer", snapshots.WithLabels(map[string]string{LabelID: "x"}))
	check(w.t, err)
}

// restored makes a container with a record, view and directories.
func (w *world) restored(id string) *Record {
	w.t.Helper()
	w.container(id)
	r := &Record{ID: NewID(), Image: "registry.example/c:1", Snapshotter: snapshotter}
	r.SnapshotKey = SnapshotKey(r.ID)
	w.view(r.SnapshotKey, checkpointFiles())
	check(w.t, w.store.Attach(w.ctx, id, r, func(*containers.Container) error { return nil }))
	check(w.t, w.store.Dirs.Make(r.ID))
	return r
}

func raw(url string, value []byte) *anypb.Any { return &anypb.Any{TypeUrl: url, Value: value} }

// checkpointFiles is the smallest checkpoint that containerd could have written.
func checkpointFiles() map[string]string {
	return map[string]string{
		"config.dump": `{"id":"c1","name":"c","rootfsImageRef":"registry.example/base@sha256:` +
			strings.Repeat("a", 64) + `"}`,
		"spec.dump":                   `{"process":{},"root":{"path":"rootfs"},"linux":{}}`,
		"checkpoint/inventory.img":    "inventory",
		"checkpoint/descriptors.json": `["/dev/null","pipe:[1]","pipe:[2]"]`,
	}
}

// open opens the smallest checkpoint with some more files.
func open(t *testing.T, more map[string]string) *checkpoint.Checkpoint {
	t.Helper()
	return openWithin(t, more, checkpoint.DefaultLimits())
}

func openWithin(t *testing.T, more map[string]string, l checkpoint.Limits) *checkpoint.Checkpoint {
	t.Helper()
	dir, files := t.TempDir(), checkpointFiles()
	maps.Copy(files, more)
	write(t, dir, files)
	c, err := checkpoint.Open(dir, l)
	check(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// write writes files below dir.
func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		file := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(file), 0o755))
		check(t, os.WriteFile(file, []byte(content), 0o644))
	}
}

// entry is an entry of a tar archive.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

func special(typeflag byte, name, link string) entry {
	return entry{tar.Header{Typeflag: typeflag, Name: name, Linkname: link, Mode: 0o755}, ""}
}

func tarball(t testing.TB, entries ...entry) string {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		check(t, tw.WriteHeader(&e.Header))
		_, err := tw.Write([]byte(e.content))
		check(t, err)
	}
	check(t, tw.Close())
	return buf.String()
}

// mountsBelow returns what is mounted at dir or below, in mountinfo's order.
func mountsBelow(t testing.TB, dir string) []string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	check(t, err)
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	check(t, err)
	var out []string
	for _, i := range infos {
		out = append(out, i.Mountpoint)
	}
	return out
}

// noMounts fails the test if something is mounted at dir or below, and unmounts it.
func noMounts(t testing.TB, dir string) {
	t.Helper()
	if left := mountsBelow(t, dir); len(left) > 0 {
		t.Errorf("still mounted: %s", left)
		unmountAll(t, dir)
	}
}

// names lists everything below dir.
func names(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	check(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if path != dir {
			out = append(out, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	}))
	slices.Sort(out)
	return out
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err error, is func(error) bool, says ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	if !is(err) {
		t.Errorf("wrong class: %v", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error does not say %q: %v", s, err)
		}
	}
}
