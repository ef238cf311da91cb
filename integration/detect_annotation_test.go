package integration

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestDetectAnnotations restores from images that say in every accepted way and
// place that they are checkpoints. The content is the same everywhere.
func TestDetectAnnotations(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	plain := onlyLayer(t, archive)
	mark := map[string]string{annotationCheckpoint: "counter"}

	manifest := func(key string) func(t *testing.T, n *harness.Node) (string, string) {
		return func(t *testing.T, n *harness.Node) (string, string) {
			img := annotated(t, plain, map[string]string{key: "counter"})
			ref := n.Registry().Push(unique("manifest")+":1", img)
			n.Pull(ref)
			return ref, digestOf(t, img)
		}
	}
	index := func(idx v1.ImageIndex) func(t *testing.T, n *harness.Node) (string, string) {
		return func(t *testing.T, n *harness.Node) (string, string) {
			ref := n.Registry().PushIndex(unique("index")+":1", idx)
			n.Pull(ref)
			return ref, digestOf(t, idx)
		}
	}
	for _, test := range []struct {
		name string
		make func(t *testing.T, n *harness.Node) (ref, digest string)
	}{
		{"manifest, CRIU's", manifest(annotationCheckpoint)},
		{"manifest, CRI-O's", manifest("io.kubernetes.cri-o.annotations.checkpoint.name")},
		{"manifest, Podman's", manifest("io.podman.annotations.checkpoint.name")},
		{"manifest, Podman's runtime", manifest("io.podman.annotations.checkpoint.runtime.name")},
		{"index", index(mutate.Annotations(indexOf(t, plain, nil), mark).(v1.ImageIndex))},
		{"descriptor in the index", index(indexOf(t, plain, mark))},
		{"config label", func(t *testing.T, n *harness.Node) (string, string) {
			img := withConfig(t, plain, func(c *v1.ConfigFile) { c.Config.Labels = mark })
			ref := n.Registry().Push(unique("label")+":1", img)
			n.Pull(ref)
			return ref, digestOf(t, img)
		}},
		{"descriptor of the image store", func(t *testing.T, n *harness.Node) (string, string) {
			name := n.Image(unique("imported") + ":1")
			n.Ctr("images", "import", "--local", layoutTar(t, n, plain, name, mark))
			awaitImage(t, n, name)
			return name, digestOf(t, plain)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := leakFree(t, n)
			ref, digest := test.make(t, n)
			c := restored(t, n.Pod(t), ref, counted)
			if got := c.Status().GetAnnotations()["org.criu.restore/checkpoint-digest"]; got != digest {
				t.Errorf("checkpoint-digest: got %q, want %q", got, digest)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		n := leakFree(t, n)
		busybox, err := harness.BusyboxImage()
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		ref := n.Registry().Push(unique("none")+":1", withLayer(t, busybox, content))
		n.Pull(ref)
		c := ordinary(t, n.Pod(t), ref)
		c.Exec("test", "-f", "/checkpoint/inventory.img")
	})
}

// TestDetectReferences restores from one image by every name that it has.
func TestDetectReferences(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	img := checkpointImage(t, archive)
	repository := unique("checkpoint") + ":1"
	byDigest := n.Registry().Push(repository, img)
	tag := n.Image(repository)
	id := n.Pull(tag)
	pod := n.Pod(t)
	for name, ref := range map[string]string{"ID": id, "short ID": id[len("sha256:"):][:16], "tag": tag,
		"digest": byDigest} {
		t.Run(name, func(t *testing.T) {
			n := leakFree(t, n)
			c := restored(t, pod, ref, counted)
			status := c.Status()
			if got := status.GetAnnotations()["org.criu.restore/checkpoint-digest"]; got != digestOf(t, img) {
				t.Errorf("checkpoint-digest: got %q, want %q", got, digestOf(t, img))
			}
			if got := status.GetAnnotations()["org.criu.restore/checkpoint-image"]; got != ref {
				t.Errorf("checkpoint-image: got %q, want the request's %q", got, ref)
			}
			c.Remove()
			_ = n
		})
	}
}

// indexOf is an index with the image, for its platform, and annotations on the
// image's descriptor.
func indexOf(t testing.TB, img v1.Image, annotations map[string]string) v1.ImageIndex {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: img, Descriptor: v1.Descriptor{Platform: config.Platform(), Annotations: annotations},
	})
}

// layoutTar writes an image as a tar of an OCI image layout, whose index names it and
// has annotations on its descriptor.
func layoutTar(t testing.TB, n *harness.Node, img v1.Image, name string, annotations map[string]string) string {
	t.Helper()
	dir := filepath.Join(n.Dir(), unique("layout"))
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"io.containerd.image.name": name}
	for key, value := range annotations {
		all[key] = value
	}
	if err := l.AppendImage(img, layout.WithAnnotations(all)); err != nil {
		t.Fatal(err)
	}
	file := dir + ".tar"
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

// awaitImage waits until CRI knows an image that came into containerd past it. CRI hears
// of images by events, and does not tell when it is done with one.
func awaitImage(t testing.TB, n *harness.Node, ref string) {
	t.Helper()
	n = n.In(t)
	_, err := backoff.Retry(t.Context(), func() (any, error) {
		if n.ImageStatus(ref) == nil {
			return nil, fmt.Errorf("CRI does not know image %s", ref)
		}
		return nil, nil
	}, backoff.WithBackOff(backoff.NewConstantBackOff(20*time.Millisecond)), backoff.WithMaxElapsedTime(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
}
