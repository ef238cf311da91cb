package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What the program publishes is what the detector finds and View shows.
func TestPublishDetectView(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	desc, err := Publish(w.ctx, w.client, snapshotter, "registry.example/counter:1", pack(t, files()), BuildOptions{})
	check(t, err)
	manager := metadata.NewLeaseManager(w.db)
	if left, err := manager.List(w.ctx); err != nil || len(left) != 0 {
		t.Errorf("left leases %v, %v", left, err)
	}
	_, err = w.db.GarbageCollect(w.ctx)
	check(t, err)
	entry, err := w.images.Get(w.ctx, "registry.example/counter:1")
	check(t, err)
	if entry.Target.Digest != desc.Digest {
		t.Fatalf("%+v", entry)
	}

	// The CRI takes it up.
	id := w.store(cri, desc)
	cri.add("registry.example/counter:1", id)
	img, err := NewDetector(cri, w.images, w.reads).Detect(w.ctx, spec("registry.example/counter:1"), holds)
	check(t, err)

	lease, err := manager.Create(w.ctx, leases.WithRandomID())
	check(t, err)
	ctx := leases.WithLease(w.ctx, lease.ID)
	sn := w.client.SnapshotService(snapshotter)
	look := func(key string) {
		t.Helper()
		mounts, err := View(ctx, w.client, img, snapshotter, key, map[string]string{"a": "b"})
		check(t, err)
		// A native snapshot is a bind of a directory.
		if data, err := os.ReadFile(filepath.Join(mounts[0].Source, "container.log")); err != nil ||
			string(data) != files()["container.log"] {
			t.Errorf("%q, %v", data, err)
		}
		info, err := sn.Stat(ctx, key)
		check(t, err)
		if info.Kind != snapshots.KindView || info.Labels["a"] != "b" {
			t.Errorf("%+v", info)
		}
	}
	look("one")
	if _, err := View(ctx, w.client, img, snapshotter, "one", nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("%v", err)
	}
	check(t, w.client.SnapshotService(snapshotter).Remove(ctx, "one"))

	// A snapshotter that has not got the image unpacks it.
	var parent string
	check(t, sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error { parent = info.Name; return nil }))
	check(t, sn.Remove(ctx, parent))
	look("two")

	// Without the lease it goes.
	check(t, manager.Delete(w.ctx, lease))
	_, err = w.db.GarbageCollect(w.ctx)
	check(t, err)
	if _, err := sn.Stat(w.ctx, "two"); !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}

	// An image that is gone.
	check(t, w.images.Delete(w.ctx, id))
	check(t, w.images.Delete(w.ctx, "registry.example/counter:1"))
	_, err = w.db.GarbageCollect(w.ctx)
	check(t, err)
	if _, err := View(w.ctx, w.client, img, snapshotter, "three", nil); !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
}

// A name that moves to another image must lose the CRI's label, or the CRI makes
// no entry for the new image's ID.
func TestPublishAgain(t *testing.T) {
	w := newWorld(t)
	const name = "registry.example/counter:1"
	_, err := Publish(w.ctx, w.client, snapshotter, name, pack(t, files()), BuildOptions{})
	check(t, err)
	managed := func() {
		t.Helper()
		img, err := w.images.Get(w.ctx, name)
		check(t, err)
		img.Labels = map[string]string{"io.cri-containerd.image": "managed"}
		_, err = w.images.Update(w.ctx, img)
		check(t, err)
	}
	managed()
	_, err = Publish(w.ctx, w.client, snapshotter, name, pack(t, files()), BuildOptions{})
	check(t, err)
	img, err := w.images.Get(w.ctx, name)
	check(t, err)
	if len(img.Labels) != 1 {
		t.Errorf("the same image lost its labels: %+v", img)
	}
	desc, err := Publish(w.ctx, w.client, snapshotter, name, pack(t, files()), BuildOptions{Compression: Gzip})
	check(t, err)
	img, err = w.images.Get(w.ctx, name)
	check(t, err)
	if len(img.Labels) != 0 || img.Target.Digest != desc.Digest {
		t.Errorf("%+v", img)
	}
}

func TestPublishFails(t *testing.T) {
	w := newWorld(t)
	if _, err := Publish(w.ctx, w.client, snapshotter, "a", save(t, []byte("none")),
		BuildOptions{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
	if _, err := Publish(w.ctx, w.client, "none", "a", pack(t, files()), BuildOptions{}); err == nil {
		t.Error("no error")
	}
	if found, err := w.images.List(w.ctx); err != nil || len(found) != 0 {
		t.Errorf("left %v, %v", found, err)
	}
	left, err := metadata.NewLeaseManager(w.db).List(w.ctx)
	if err != nil || len(left) != 0 {
		t.Errorf("left leases %v, %v", left, err)
	}
}

// fakeClient knows the image from some question on, and another one before.
type fakeClient struct {
	id    string
	asked int
	known int // never if 0
	err   error
}

func (f *fakeClient) ImageStatus(context.Context, *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error) {
	f.asked++
	switch {
	case f.known > 0 && f.asked >= f.known:
		return &runtime.ImageStatusResponse{Image: &runtime.Image{Id: f.id}}, nil
	case f.err != nil:
		return nil, f.err
	case f.asked == 1:
		return &runtime.ImageStatusResponse{}, nil
	}
	return &runtime.ImageStatusResponse{Image: &runtime.Image{Id: "another"}}, nil
}

func TestAwaitCRI(t *testing.T) {
	w := newWorld(t)
	target, config := w.manifest(nil, checkpointed)
	img := images.Image{Name: "registry.example/a:1", Target: target}
	for name, c := range map[string]struct {
		known int
		err   error
		asked int
	}{
		"at once":        {1, nil, 1},
		"later":          {4, nil, 4},
		"starting":       {3, status.Error(codes.Unavailable, "server is not initialized yet"), 3},
		"without plugin": {0, status.Error(codes.Unimplemented, "unknown service"), 1},
	} {
		client := &fakeClient{id: config.Digest.String(), known: c.known, err: c.err}
		if err := Await(w.ctx, w.reads, client.ImageStatus, img); err != nil || client.asked != c.asked {
			t.Errorf("%s: asked %d times, %v", name, client.asked, err)
		}
	}
	ctx, cancel := context.WithTimeout(w.ctx, 50*time.Millisecond)
	defer cancel()
	if err := Await(ctx, w.reads, (&fakeClient{}).ImageStatus, img); !errdefs.IsDeadlineExceeded(err) ||
		!strings.Contains(err.Error(), img.Name) {
		t.Errorf("%v", err)
	}
}
