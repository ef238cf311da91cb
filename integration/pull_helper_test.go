package integration

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// annotationCheckpoint makes an image a checkpoint image; the other engines' names for
// it are tried where that is the subject.
const annotationCheckpoint = "org.criu.checkpoint.container.name"

// checkpointImage is an image whose only layer is the checkpoint, with one annotation
// in its manifest. The tests that are about something else use image.BuildLayout.
func checkpointImage(t testing.TB, archive string) v1.Image {
	t.Helper()
	return annotated(t, onlyLayer(t, archive), map[string]string{annotationCheckpoint: "counter"})
}

// onlyLayer is an image that holds a plain tar and has no annotations.
func onlyLayer(t testing.TB, archive string) v1.Image {
	t.Helper()
	content, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	return withLayer(t, mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		types.OCIConfigJSON), content)
}

// withLayer adds a layer, a plain tar, to an image, and makes it one for this platform.
func withLayer(t testing.TB, img v1.Image, content []byte) v1.Image {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)),
			nil
	},
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, layer); err != nil {
		t.Fatal(err)
	}
	return withConfig(t, img, func(*v1.ConfigFile) {})
}

// withConfig changes an image's configuration. The platform is that of the busybox image.
func withConfig(t testing.TB, img v1.Image, change func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	busybox, err := harness.BusyboxImage()
	if err != nil {
		t.Fatal(err)
	}
	platform, err := busybox.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = platform.OS, platform.Architecture
	change(file)
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// annotated adds annotations to an image's manifest.
func annotated(t testing.TB, img v1.Image, annotations map[string]string) v1.Image {
	t.Helper()
	out, ok := mutate.Annotations(img, annotations).(v1.Image)
	if !ok {
		t.Fatal("an annotated image is no image")
	}
	return out
}

// baseImage is a busybox image with one small layer that no other image has: no node
// has it before it is pulled, and a container that was checkpointed on busybox can be restored on it.
func baseImage(t testing.TB) v1.Image {
	t.Helper()
	busybox, err := harness.BusyboxImage()
	if err != nil {
		t.Fatal(err)
	}
	return withLayer(t, busybox, tarOf(t, map[string]string{"etc/base": unique("base")}))
}

// tarOf is a tar of regular files.
func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644,
			Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// rebased writes the archive again as if the container had run from another image.
// The name is what the user had asked for, the reference what the image was.
func rebased(t testing.TB, archive, name, reference string) string {
	t.Helper()
	return edited(t, archive, map[string]edit{"config.dump": func(content []byte) ([]byte, bool) {
		config := map[string]any{}
		if err := json.Unmarshal(content, &config); err != nil {
			t.Fatalf("%s: config.dump: %v", archive, err)
		}
		config["rootfsImage"], config["rootfsImageName"], config["rootfsImageRef"] = name, name, reference
		content, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		return content, true
	}})
}

// idOf is the CRI image ID of an image.
func idOf(t testing.TB, img v1.Image) string {
	t.Helper()
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// digestOf is the digest of an image's manifest.
func digestOf(t testing.TB, img interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// lastLayer is the digest of an image's last layer as it is in a registry.
func lastLayer(t testing.TB, img v1.Image) string {
	t.Helper()
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return manifest.Layers[len(manifest.Layers)-1].Digest.String()
}

// leakFree returns the node for a subtest, at whose end the node must hold no more than
// now. The images that have come meanwhile are removed through CRI before that.
func leakFree(t *testing.T, n *harness.Node) *harness.Node {
	t.Helper()
	n = n.In(t)
	before := n.Inventory(t)
	t.Cleanup(func() {
		for _, id := range imageIDs(t, n) {
			if _, ok := before[harness.KindImage][id]; !ok {
				n.RemoveImage(id)
			}
		}
		n.RequireNoLeak(t, before)
	})
	return n
}

// imageIDs are the IDs of the images that CRI shows.
func imageIDs(t testing.TB, n *harness.Node) []string {
	t.Helper()
	list, err := n.Images().ListImages(callContext(t), &runtime.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, img := range list.GetImages() {
		ids = append(ids, img.GetId())
	}
	return ids
}

// refused creates a container, which must fail with the code and the words, and leave
// nothing behind. No container may run meanwhile that starts processes.
func refused(t testing.TB, pod *harness.Pod, image string, code codes.Code, words ...string) {
	t.Helper()
	_ = refusal(t, pod, image, code, words...)
}

// refusal is refused for those who want to see the error.
func refusal(t testing.TB, pod *harness.Pod, image string, code codes.Code, words ...string) error {
	t.Helper()
	n := pod.Node().In(t)
	before := n.Inventory(t)
	_, err := pod.TryCreate(unique("refused"), image)
	requireRefused(t, err, code, words...)
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("the error has more than one line: %v", err)
	}
	n.RequireNoLeak(t, before)
	return err
}

// restored creates and starts a container from a checkpoint of a Counting container,
// and fails the test unless it goes on counting.
func restored(t testing.TB, pod *harness.Pod, image string, counted int) *harness.Container {
	t.Helper()
	c := pod.Run(unique("restored"), image)
	requireContinues(t, c, counted)
	return c
}

// ordinary runs a container that must be an ordinary one, not a restored one.
func ordinary(t testing.TB, pod *harness.Pod, image string, opts ...harness.ContainerOpt) *harness.Container {
	t.Helper()
	// One process, always the same: an inventory can be compared with a later one.
	c := pod.Run(unique("ordinary"), image, append(opts, harness.Shell("echo fresh; exec sleep 3600"))...)
	c.WaitLine("fresh")
	for key := range c.Status().GetAnnotations() {
		if strings.HasPrefix(key, "org.criu.restore/") {
			t.Errorf("an ordinary container has annotation %s", key)
		}
	}
	return c
}
