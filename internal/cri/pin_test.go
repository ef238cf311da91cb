package cri

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/restore"
)

// collector is the client of a stream of images.
type collector struct {
	grpc.ServerStreamingServer[runtime.StreamImagesResponse]
	ctx    context.Context
	images []*runtime.Image
}

func (c *collector) Context() context.Context { return c.ctx }

func (c *collector) Send(r *runtime.StreamImagesResponse) error {
	c.images = append(c.images, r.GetImages()...)
	return nil
}

// pinned returns the IDs of the images that CRI shows as pinned, which is the same whoever is asked.
func (w *world) pinned() []string {
	w.t.Helper()
	of := func(images []*runtime.Image) (pinned []string) {
		if len(images) != 2 {
			w.t.Errorf("images %v", images)
		}
		for _, img := range images {
			if img.GetPinned() {
				pinned = append(pinned, img.GetId())
			}
		}
		slices.Sort(pinned)
		return pinned
	}
	list, err := w.service.ListImages(w.ctx, &runtime.ListImagesRequest{})
	check(w.t, err)
	listed := of(list.GetImages())
	stream := &collector{ctx: w.ctx}
	check(w.t, w.service.StreamImages(&runtime.StreamImagesRequest{}, stream))
	if streamed := of(stream.images); !slices.Equal(streamed, listed) {
		w.t.Errorf("pinned in ListImages: %q, in StreamImages: %q", listed, streamed)
	}
	var each []*runtime.Image
	for _, img := range list.GetImages() {
		resp, err := w.service.ImageStatus(w.ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: img.GetId()}})
		check(w.t, err)
		each = append(each, resp.GetImage())
	}
	if asked := of(each); !slices.Equal(asked, listed) {
		w.t.Errorf("pinned in ListImages: %q, in ImageStatus: %q", listed, asked)
	}
	return listed
}

// The kubelet sees a checkpoint image as pinned as long as there is a container of it, restored or started fresh.
func TestCheckpointImagesInUseArePinned(t *testing.T) {
	for name, files := range map[string]func(*world) map[string]string{"restored": (*world).files,
		"started fresh": (*world).misfit} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			id := w.checkpointImage(checkpointName, files(w))
			w.wantsFresh()
			if got := w.pinned(); len(got) != 0 {
				t.Errorf("without containers: %v", got)
			}
			resp, err := w.runtime.CreateContainer(w.ctx, w.request(id))
			check(t, err)
			if got := w.pinned(); len(got) != 1 || got[0] != id {
				t.Errorf("with a container: %v, want %s", got, id)
			}
			// The next containerd finds it in the store.
			w.node.users = users{store: w.node.users.store}
			if got := w.pinned(); len(got) != 1 || got[0] != id {
				t.Errorf("after a restart: %v, want %s", got, id)
			}
			_, err = w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: resp.ContainerId})
			check(t, err)
			if got := w.pinned(); len(got) != 0 {
				t.Errorf("after the container: %v", got)
			}
		})
	}
}

// If the containers cannot be listed the images are all the same.
func TestPinsNeedTheContainers(t *testing.T) {
	w := newWorld(t)
	id := w.checkpointImage(checkpointName, w.files())
	_, err := w.runtime.CreateContainer(w.ctx, w.request(id))
	check(t, err)
	w.node.users = users{store: failing{w.node.users.store}}
	if got := w.pinned(); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

// An annotation, which anybody can write, pins no image.
func TestAnnotationsPinNothing(t *testing.T) {
	w := newWorld(t)
	id := w.checkpointImage(checkpointName, w.files())
	r := w.request(w.baseID)
	maps.Copy(r.Config.Annotations, (&restore.Record{ID: restore.NewID(), Image: checkpointName,
		ImageID: id}).Annotations())
	_, err := w.runtime.CreateContainer(w.ctx, r)
	check(t, err)
	w.node.users = users{store: w.node.users.store}
	if got := w.pinned(); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

// The removal of an ordinary container, and of a pod with no other, costs nothing beside containerd's own. A restored
// one is found, also by the next containerd.
func TestRemovalOfOrdinaryContainersAsksNobody(t *testing.T) {
	w := newWorld(t)
	resp, err := w.runtime.CreateContainer(w.ctx, w.request(w.baseID))
	check(t, err)
	w.faults.arm(0, nil)
	_, err = w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: resp.ContainerId[:20]})
	check(t, err)
	_, err = w.runtime.RemovePodSandbox(w.ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: sandbox})
	check(t, err)
	if made := w.faults.disarm(); !slices.Equal(made, []string{"RemoveContainer", "RemovePodSandbox"}) {
		t.Errorf("calls %q", made)
	}
	id := w.checkpointImage(checkpointName, w.files())
	before := w.inventory()
	restored, err := w.runtime.CreateContainer(w.ctx, w.request(id))
	check(t, err)
	w.node.users = users{store: w.node.users.store}
	_, err = w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: restored.ContainerId[:50]})
	check(t, err)
	check(t, os.RemoveAll(filepath.Join(w.dir, "logs"))) // the kubelet's
	w.unchanged(before)
}
