package image

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/upstream"
)

// The annotations that make an image a checkpoint image.
const (
	annotationCRIU      = "org.criu.checkpoint.container.name"
	annotationCRIO      = "io.kubernetes.cri-o.annotations.checkpoint.name"
	annotationPodman    = "io.podman.annotations.checkpoint.name"
	annotationPodmanOCI = "io.podman.annotations.checkpoint.runtime.name"
)

// spec is what a request says of its image.
func spec(image string) *runtime.ImageSpec { return &runtime.ImageSpec{Image: image} }

// holds is a look at an image with a checkpoint, hollow one at another.
func holds(context.Context, *Image) (bool, error)  { return true, nil }
func hollow(context.Context, *Image) (bool, error) { return false, nil }

var checkpointed = map[string]string{annotationCRIU: "counter"}

func TestDetectWhereTheAnnotationIs(t *testing.T) {
	other := ocispec.Platform{OS: "linux", Architecture: "s390x"}
	here := platforms.DefaultSpec()
	for name, c := range map[string]struct {
		target func(*world) ocispec.Descriptor
		want   bool
	}{
		"none": {func(w *world) ocispec.Descriptor { d, _ := w.manifest(nil, nil); return d }, false},
		"another's": {func(w *world) ocispec.Descriptor {
			d, _ := w.manifest(map[string]string{"name": "org.criu.checkpoint.container.name"},
				map[string]string{"org.criu.checkpoint.engine.name": "x"})
			return d
		}, false},
		"manifest": {func(w *world) ocispec.Descriptor { d, _ := w.manifest(nil, checkpointed); return d }, true},
		"manifest, CRI-O": {func(w *world) ocispec.Descriptor {
			d, _ := w.manifest(nil, map[string]string{annotationCRIO: ""})
			return d
		}, true},
		"manifest, Podman": {func(w *world) ocispec.Descriptor {
			d, _ := w.manifest(nil, map[string]string{annotationPodman: "x"})
			return d
		}, true},
		"manifest, Podman runtime": {func(w *world) ocispec.Descriptor {
			d, _ := w.manifest(nil, map[string]string{annotationPodmanOCI: "runc"})
			return d
		}, true},
		"config label": {func(w *world) ocispec.Descriptor { d, _ := w.manifest(checkpointed, nil); return d }, true},
		"entry": {func(w *world) ocispec.Descriptor {
			d, _ := w.manifest(nil, nil)
			d.Annotations = checkpointed
			return d
		}, true},
		"index": {func(w *world) ocispec.Descriptor {
			d, _ := w.manifest(nil, nil)
			return w.index(checkpointed, d)
		}, true},
		"descriptor in index": {func(w *world) ocispec.Descriptor {
			d, _ := w.manifest(nil, nil)
			d.Annotations = checkpointed
			return w.index(nil, d)
		}, true},
		"manifest in index": {func(w *world) ocispec.Descriptor {
			d, _ := w.manifest(nil, checkpointed)
			return w.index(nil, d)
		}, true},
		"manifest of another platform": {func(w *world) ocispec.Descriptor {
			foreign, _ := w.manifest(nil, checkpointed)
			foreign.Platform = &other
			foreign.Annotations = checkpointed
			local, _ := w.manifest(nil, nil)
			local.Platform = &here
			return w.index(nil, foreign, local)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, cri := newWorld(t), &fakeCRI{}
			id := w.store(cri, c.target(w), "registry.example/app:1")
			for _, ref := range []string{id, "registry.example/app:1"} {
				img, err := NewDetector(cri, w.images, w.reads).Detect(w.ctx, spec(ref), holds)
				check(t, err)
				if (img != nil) != c.want {
					t.Fatalf("Detect(%s) = %+v, want a checkpoint image: %v", ref, img, c.want)
				}
				if img != nil && (img.ID != id || img.Name != ref || len(img.Annotations) != 1 ||
					!slices.Equal(img.References, []string{"registry.example/app:1"})) {
					t.Fatalf("Detect(%s) = %+v", ref, img)
				}
			}
		})
	}
}

func TestDetectReadsAnImageOnce(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	plain, _ := w.manifest(nil, nil)
	marked, _ := w.manifest(map[string]string{"x": "y"}, checkpointed)
	d := NewDetector(cri, w.images, w.reads)
	looks := 0
	holds := func(context.Context, *Image) (bool, error) { looks++; return true, nil }
	for _, id := range []string{w.store(cri, plain), w.store(cri, marked)} {
		first, err := d.Detect(w.ctx, spec(id), holds)
		check(t, err)
		if n := w.reads.reset(); n == 0 {
			t.Fatal("nothing read")
		}
		again, err := d.Detect(w.ctx, spec(id), holds)
		check(t, err)
		if n := w.reads.reset(); n != 0 {
			t.Fatalf("%d blobs read again", n)
		}
		if (first == nil) != (again == nil) {
			t.Fatalf("first %+v, then %+v", first, again)
		}
	}
	if looks != 1 {
		t.Errorf("looked %d times into one image with annotations and one without", looks)
	}
	// The entry's own annotations are not what the digest names.
	img, err := w.images.Get(w.ctx, w.mustID(plain))
	check(t, err)
	img.Target.Annotations = checkpointed
	_, err = w.images.Update(w.ctx, img)
	check(t, err)
	if got, err := d.Detect(w.ctx, spec(img.Name), holds); err != nil || got == nil {
		t.Fatalf("annotated since: %+v, %v", got, err)
	}
}

// Annotations are a hint, and what the image holds is looked at once. A look that fails is no answer.
func TestDetectDecidesByContent(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	marked, _ := w.manifest(nil, checkpointed)
	id := w.store(cri, marked)
	d := NewDetector(cri, w.images, w.reads)
	broken := errors.New("cannot be mounted")
	if img, err := d.Detect(w.ctx, spec(id), func(context.Context, *Image) (bool, error) {
		return true,
			broken
	}); img != nil || !errors.Is(err, broken) {
		t.Errorf("got %+v, %v", img, err)
	}
	for _, look := range []Look{hollow, holds, hollow} {
		if img, err := d.Detect(w.ctx, spec(id), look); img != nil || err != nil {
			t.Errorf("it holds no checkpoint: %+v, %v", img, err)
		}
	}
}

// Two references of one image, of which one has the annotations: what is asked for decides, whichever was pulled last.
func TestDetectByTheReferenceThatIsAskedFor(t *testing.T) {
	const plainTag, markedTag = "registry.example/app:plain", "registry.example/app:checkpoint"
	for _, last := range []string{plainTag, markedTag} {
		t.Run(last+" last", func(t *testing.T) {
			w, cri := newWorld(t), &fakeCRI{}
			targets := map[string]ocispec.Descriptor{}
			targets[plainTag], _ = w.manifest(nil, nil)
			targets[markedTag], _ = w.manifest(nil, checkpointed)
			id := w.store(cri, targets[last], last)
			for name, target := range targets {
				if name != last {
					_, err := w.images.Create(w.ctx, images.Image{Name: name, Target: target})
					check(t, err)
					cri.add(name, id)
				}
			}
			d := NewDetector(cri, w.images, w.reads)
			for _, c := range []struct {
				asked *runtime.ImageSpec
				want  bool
			}{
				{&runtime.ImageSpec{Image: plainTag}, false},
				{&runtime.ImageSpec{Image: markedTag}, true},
				{&runtime.ImageSpec{Image: markedTag, UserSpecifiedImage: plainTag}, true},
				{&runtime.ImageSpec{Image: plainTag, UserSpecifiedImage: markedTag}, false},
				// The kubelet: the ID, and beside it the user's word.
				{&runtime.ImageSpec{Image: id, UserSpecifiedImage: markedTag}, true},
				{&runtime.ImageSpec{Image: id, UserSpecifiedImage: plainTag}, false},
				// Only the ID, or a word that is none of the image's references.
				{&runtime.ImageSpec{Image: id}, true},
				{&runtime.ImageSpec{Image: id, UserSpecifiedImage: "registry.example/other:1"}, true},
			} {
				img, err := d.Detect(w.ctx, c.asked, holds)
				check(t, err)
				if (img != nil) != c.want || img != nil && (img.ID != id || img.Target.Digest != targets[markedTag].Digest) {
					t.Errorf("%v: got %+v, want a checkpoint: %t", c.asked, img, c.want)
				}
			}
		})
	}
}

func TestDetectCacheIsNotShared(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	marked, _ := w.manifest(nil, checkpointed)
	marked.Annotations = map[string]string{annotationPodman: "x"}
	id := w.store(cri, marked)
	d := NewDetector(cri, w.images, w.reads)
	for range 2 {
		img, err := d.Detect(w.ctx, spec(id), holds)
		check(t, err)
		if len(img.Annotations) != 2 {
			t.Fatalf("annotations %v", img.Annotations)
		}
		img.Annotations["more"] = "by the caller"
	}
}

// What cannot be inspected is for containerd to answer, and is looked at again.
func TestDetectUninspectable(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	marked, _ := w.manifest(nil, checkpointed)
	id := w.store(cri, marked)
	d := NewDetector(cri, w.images, w.reads)

	for _, ref := range []string{"", "registry.example/none:1", "/tmp/checkpoint.tar", "sha256:" + id[:10]} {
		if img, err := d.Detect(w.ctx, spec(ref), holds); img != nil || err != nil {
			t.Fatalf("Detect(%q) = %+v, %v", ref, img, err)
		}
	}
	w.reads.err = errors.New("disk on fire")
	if img, err := d.Detect(w.ctx, spec(id), holds); img != nil || err != nil {
		t.Fatalf("with a broken disk: %+v, %v", img, err)
	}
	if img, err := d.Detect(w.ctx, spec(id), holds); img == nil || err != nil {
		t.Fatalf("with the disk repaired: %+v, %v", img, err)
	}
	// The CRI's memory is behind: the entry is gone.
	check(t, w.images.Delete(w.ctx, id))
	if img, err := d.Detect(w.ctx, spec(id), holds); img != nil || err != nil {
		t.Fatalf("removed: %+v, %v", img, err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	w.reads.err = context.Canceled
	if _, err := NewDetector(cri, failing{w.images}, w.reads).Detect(ctx, spec(id), holds); !errdefs.IsCanceled(err) {
		t.Fatalf("cancelled: %v", err)
	}
}

func TestDetectRefusesHugeDocuments(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	blob := append([]byte(`{"annotations":{"`+annotationCRIU+`":"x"}}`), bytes.Repeat([]byte{' '}, maxDocument)...)
	target := w.blob(ocispec.MediaTypeImageManifest, blob)
	_, err := w.images.Create(w.ctx, images.Image{Name: "sha256:1", Target: target})
	check(t, err)
	cri.add("huge", "sha256:1")
	if img, err := NewDetector(cri, w.images, w.reads).Detect(w.ctx, spec("huge"), holds); img != nil || err != nil {
		t.Fatalf("%+v, %v", img, err)
	}
}

// What an ordinary create pays for the question, after the first one for its image.
func BenchmarkDetect(b *testing.B) {
	w, cri := newWorld(b), &fakeCRI{}
	plain, _ := w.manifest(nil, nil)
	id := w.store(cri, plain)
	d := NewDetector(cri, w.images, w.reads)
	_, err := d.Detect(w.ctx, spec(id), holds)
	check(b, err)
	w.reads.reset()
	b.ReportAllocs()
	for b.Loop() {
		if img, err := d.Detect(w.ctx, spec(id), holds); img != nil || err != nil {
			b.Fatal(img, err)
		}
	}
	if n := w.reads.reset(); n != 0 {
		b.Fatalf("%d blobs read", n)
	}
}

type failing struct{ images.Store }

func (failing) Get(ctx context.Context, _ string) (images.Image, error) {
	return images.Image{}, ctx.Err()
}

func (w *world) mustID(target ocispec.Descriptor) string {
	config, err := images.Config(namespaces.WithNamespace(w.ctx, upstream.Namespace), w.db.ContentStore(), target,
		platforms.Default())
	check(w.t, err)
	return config.Digest.String()
}
