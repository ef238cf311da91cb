package cri

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// request is the kubelet's, for an image by its ID.
func (w *world) request(imageID string) *runtime.CreateContainerRequest {
	return &runtime.CreateContainerRequest{
		PodSandboxId:  sandbox,
		SandboxConfig: &runtime.PodSandboxConfig{LogDirectory: filepath.Join(w.dir, "logs")},
		Config: &runtime.ContainerConfig{
			Metadata: &runtime.ContainerMetadata{Name: "counter"},
			Image:    &runtime.ImageSpec{Image: imageID, UserSpecifiedImage: checkpointName},
			Labels:   map[string]string{"app": "x"}, Annotations: map[string]string{"a": "b"},
			LogPath: "counter/0.log",
		},
	}
}

// inventory is everything that a request could leave, after a garbage collection.
func (w *world) inventory() []string {
	w.t.Helper()
	_, err := w.db.GarbageCollect(w.ctx)
	check(w.t, err)
	var out []string
	leases, err := w.node.Client.LeasesService().List(w.ctx)
	check(w.t, err)
	for _, l := range leases {
		out = append(out, "lease "+l.ID)
	}
	check(w.t, w.sn.Walk(w.ctx, func(_ context.Context, i snapshots.Info) error {
		out = append(out, "snapshot "+i.Kind.String()+" "+i.Name)
		return nil
	}))
	cs, err := w.inner.containers.List(w.ctx)
	check(w.t, err)
	for _, c := range cs {
		out = append(out, "container "+c.ID)
	}
	for id, name := range w.inner.names {
		out = append(out, "name "+name+" of "+id)
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(w.dir))
	check(w.t, err)
	for _, i := range infos {
		out = append(out, "mount "+i.Mountpoint)
	}
	for _, dir := range []string{"root", "state", "logs"} {
		err := filepath.WalkDir(filepath.Join(w.dir, dir), func(path string, _ os.DirEntry, err error) error {
			if path != filepath.Join(w.dir, dir) {
				out = append(out, "file "+path)
			}
			if filepath.Base(path) == "view" {
				return filepath.SkipDir // the checkpoint's files
			}
			return err
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			w.t.Error(err)
		}
	}
	slices.Sort(out)
	return out
}

// unchanged fails the test if there is something that was not there before, or the other way round.
func (w *world) unchanged(before []string) {
	w.t.Helper()
	after := w.inventory()
	for _, s := range after {
		if !slices.Contains(before, s) {
			w.t.Errorf("left: %s", s)
		}
	}
	for _, s := range before {
		if !slices.Contains(after, s) {
			w.t.Errorf("gone: %s", s)
		}
	}
}

func (w *world) read(elem ...string) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		w.t.Error(err)
	}
	return string(data)
}

// ready checks that the container is one that can be started as a restore.
func (w *world) ready(id string) *restore.Record {
	w.t.Helper()
	c, record, err := w.node.Restores.Get(w.ctx, id)
	check(w.t, err)
	images, work, err := w.node.Restores.Prepare(w.ctx, record)
	check(w.t, err)
	if got := w.read(images, "inventory.img"); got != criuImages["inventory.img"] {
		w.t.Errorf("image %q", got)
	}
	if fi, err := os.Stat(work); err != nil || !fi.IsDir() {
		w.t.Errorf("work directory: %v", err)
	}
	var spec specs.Spec
	check(w.t, json.Unmarshal(c.Spec.GetValue(), &spec))
	if got, want := spec.Annotations["org.criu.config"],
		w.node.Restores.Dirs.Config(record.ID); got != want || !strings.Contains(w.read(got), "manage-cgroups") {
		w.t.Errorf("CRIU configuration %q, want %q", got, want)
	}
	if spec.Annotations["io.kubernetes.cri.container-name"] != "counter" ||
		c.Labels["io.cri-containerd.kind"] != "container" {
		w.t.Errorf("container changed: %v, %v", spec.Annotations, c.Labels)
	}
	mounts, err := w.sn.Mounts(w.ctx, c.SnapshotKey)
	check(w.t, err)
	rootfs := mounts[0].Source
	if got := w.read(rootfs, "data/new") + w.read(rootfs, "data/kept"); got != "changedbase" {
		w.t.Errorf("root file system has %q", got)
	}
	if _, err := os.Stat(filepath.Join(rootfs, "data/gone")); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("deleted file: %v", err)
	}
	if got := w.read(w.dir, "logs/counter/0.log"); got != oldLog {
		w.t.Errorf("log %q", got)
	}
	return record
}

func TestCreateFromImage(t *testing.T) {
	w := newWorld(t)
	id := w.checkpointImage(checkpointName, w.files())
	before := w.inventory()
	for _, ref := range []string{id, checkpointName} {
		r := w.request(id)
		r.Config.Image.Image = ref
		given := proto.Clone(r)
		resp, err := w.runtime.CreateContainer(w.ctx, r)
		check(t, err)
		if !proto.Equal(r, given) {
			t.Errorf("the caller's request became %v", r)
		}
		record := w.ready(resp.ContainerId)
		if record.Image != checkpointName || record.BaseImage != baseRepository+"@"+w.base ||
			record.Producer != "containerd" ||
			record.Snapshotter != snapshotter || record.CheckpointedAt.Unix() != 1795420800 {
			t.Errorf("%+v", record)
		}
		root, state, logs := filepath.Join(w.dir, "root", record.ID), filepath.Join(w.dir, "state", record.ID),
			filepath.Join(w.dir, "logs", "counter")
		w.unchanged(append(slices.Clone(before),
			"container "+resp.ContainerId, "snapshot Active "+resp.ContainerId, "name "+sandbox+"/counter of "+resp.ContainerId,
			"snapshot View "+record.SnapshotKey, "mount "+state+"/view",
			"file "+root, "file "+root+"/work", "file "+root+"/criu.conf",
			// as the spec has them
			"file "+root+"/images", "file "+root+"/images/mountpoints-2.img",
			"mount "+state+"/view/checkpoint/mountpoints-2.img",
			"file "+state, "file "+state+"/view", "file "+state+"/rootfs", "file "+logs, "file "+logs+"/0.log",
		))
		_, err = w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: resp.ContainerId[:60]})
		check(t, err)
		check(t, os.RemoveAll(filepath.Join(w.dir, "logs"))) // the kubelet's
		check(t, os.MkdirAll(filepath.Join(w.dir, "logs"), 0o755))
		w.unchanged(before)
	}
}

func TestCreateFromArchive(t *testing.T) {
	w := newWorld(t)
	archive := w.archive(w.files())
	before := w.inventory()
	r := w.request(archive)
	r.Config.Image.UserSpecifiedImage = ""
	resp, err := w.runtime.CreateContainer(w.ctx, r)
	check(t, err)
	record := w.ready(resp.ContainerId)
	if record.Image != archive || record.ImageDigest != "" || record.SnapshotKey != "" {
		t.Errorf("%+v", record)
	}
	// Nothing needs the archive any more.
	check(t, os.Remove(archive))
	_, _, err = w.node.Restores.Prepare(w.ctx, record)
	check(t, err)
	_, err = w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: resp.ContainerId})
	check(t, err)
	check(t, os.RemoveAll(filepath.Join(w.dir, "logs")))
	w.unchanged(before)
}

// What is not a checkpoint goes to containerd as it came.
func TestOrdinaryCreate(t *testing.T) {
	w := newWorld(t)
	lying := w.checkpointImage(checkpointName, w.files())
	// An image that only claims to be one: its view holds none.
	empty := t.TempDir()
	for name, c := range map[string]struct {
		image string
		view  string
	}{
		"ordinary image":       {w.baseID, ""},
		"by name":              {baseRepository + ":1", ""},
		"unknown image":        {"registry.example/absent:1", ""},
		"no image":             {"", ""},
		"a lying image":        {lying, empty},
		"relative path":        {"a/checkpoint.tar", ""},
		"unknown ID, sha256":   {"sha256:" + strings.Repeat("0", 64), ""},
		"not even a reference": {"!!", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if c.view != "" {
				w.sn.mounts = w.bindViews(c.view)
				defer func() { w.sn.mounts = nil }()
			}
			r := w.request(c.image)
			before := w.inventory()
			resp, err := w.runtime.CreateContainer(w.ctx, r)
			check(t, err)
			if got := w.inner.requests[len(w.inner.requests)-1]; !proto.Equal(got, r) {
				t.Errorf("containerd got %v, want %v", got, r)
			}
			if _, _, err := w.node.Restores.Get(w.ctx, resp.ContainerId); !errdefs.IsNotFound(err) {
				t.Errorf("record: %v", err)
			}
			_, err = w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: resp.ContainerId})
			check(t, err)
			w.unchanged(before)
		})
	}
	t.Run("nothing at all", func(t *testing.T) {
		_, err := w.runtime.CreateContainer(w.ctx, &runtime.CreateContainerRequest{})
		check(t, err)
	})
}

// The engines other than containerd say what was deleted in a file of its own.
func TestCreateFromAnotherEngine(t *testing.T) {
	w := newWorld(t)
	files := w.files()
	files["spec.dump"] = strings.Replace(files["spec.dump"], `"annotations":{`,
		`"annotations":{"io.container.manager":"cri-o","io.kubernetes.cri-o.ImageRepoDigests":"`+
			baseRepository+"@"+w.base+`",`, 1)
	files["io.kubernetes.cri-o.LogPath"] = oldLog
	files["rootfs-diff.tar"] = tarball(t, map[string]string{"data/new": "changed"})
	files["deleted.files"] = `["/data/gone"]`
	id := w.checkpointImage(checkpointName, files)
	resp, err := w.runtime.CreateContainer(w.ctx, w.request(id))
	check(t, err)
	if record := w.ready(resp.ContainerId); record.Producer != string(checkpoint.EngineCRIO) {
		t.Errorf("%+v", record)
	}
}
