package integration

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestPullReference has checkpoints that name their base image in ways that cannot be
// trusted or followed.
func TestPullReference(t *testing.T) {
	t.Parallel()
	node := newPullNode(t)
	pod := node.Pod(t)

	// The registry is the liar here: it has something else for the digest.
	for _, test := range []struct{ name, path string }{{"other manifest", "manifests"}, {"other layer", "blobs"}} {
		t.Run(test.name, func(t *testing.T) {
			n := node.sub(t)
			img, _, reference := n.base(t)
			other := baseImage(t)
			part, mediaType, body := "/manifests/"+digestOf(t, img), types.OCIManifestSchema1, rawManifest(t, other)
			if test.path == "blobs" {
				part, mediaType, body = "/blobs/"+lastLayer(t, img), types.OCILayer, rawLastLayer(t, img)
				body[len(body)-1]++
			}
			n.front.answer(part, http.StatusOK, string(mediaType), body)
			image := n.checkpointOn(t, "base:1", reference)
			err := refusal(t, pod, image, codes.FailedPrecondition, image, reference, "unexpected commit digest",
				"check it and its mirrors")
			if ids := imageIDs(t, n.Node); slices.Contains(ids, idOf(t, other)) || slices.Contains(ids, idOf(t, img)) {
				t.Errorf("an image came all the same: %v, error %v", ids, err)
			}
			n.front.honest(part)
			restored(t, pod, image, n.counted).Remove()
		})
	}

	t.Run("index without this platform", func(t *testing.T) {
		n := node.sub(t)
		foreign := withConfig(t, baseImage(t), func(c *v1.ConfigFile) { c.Architecture = "s390x" })
		idx, repository := indexOf(t, foreign, nil), unique("base")
		n.front.registry.PushIndex(repository+":1", idx)
		reference := n.front.ref(repository + "@" + digestOf(t, idx))
		// The pull fails and leaves the index behind: containerd's own doing, for any image.
		_, err := n.TryPull(reference, "", "")
		requireRefused(t, err, codes.NotFound)
		defer func() {
			if err := n.Client().ImageService().Delete(n.Context(), reference); err != nil {
				t.Error(err)
			}
		}()
		refused(t, pod, n.checkpointOn(t, "base:1", reference), codes.NotFound, reference)
	})
	t.Run("no image", func(t *testing.T) {
		n := node.sub(t)
		img, _, reference := n.base(t)
		n.Pull(reference)
		bad := strings.Replace(reference, digestOf(t, img), idOf(t, img), 1) // the configuration
		refused(t, pod, n.checkpointOn(t, "base:1", bad), codes.FailedPrecondition, bad)
		restored(t, pod, n.checkpointOn(t, "base:1", reference), n.counted).Remove()
	})

	t.Run("garbage", func(t *testing.T) {
		n := node.sub(t)
		hex := strings.Repeat("a", 64)
		for _, reference := range []string{
			"", " ", "../../etc/passwd", "base:1", "base", "host.example/base@sha256:abc",
			"host.example/base@md5:" + strings.Repeat("a", 32),
			"host.example/base@sha256:" + strings.ToUpper(hex), "http://host.example/base@sha256:" + hex,
			"Host/Base@sha256:" + hex,
			"host.example/base@sha256:" + hex + "\n", "sha256:" + hex[1:], hex + "a", "/etc/passwd", strings.Repeat("a", 5000),
		} {
			repository := unique("garbage") + ":1"
			n.Registry().Push(repository, checkpointImage(t, rebased(t, n.archive, "base:1", reference)))
			tag := n.Image(repository)
			_, err := n.TryPull(tag, "", "")
			requireRefused(t, err, codes.InvalidArgument, tag, "config.dump: rootfsImageRef: base image")
			refused(t, pod, tag, codes.InvalidArgument, tag, "config.dump: rootfsImageRef: base image")
		}
	})
}

// TestPullByID checkpoints a container whose image came from no registry, so that the
// checkpoint can name it only by its ID.
func TestPullByID(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	n = leakFree(t, n)
	base := baseImage(t)
	name := n.Image("imported/base:1") // which that registry does not have
	file := layoutTar(t, n, base, name, nil)
	load := func() {
		t.Helper()
		n.Ctr("images", "import", "--local", file)
		awaitImage(t, n, name)
	}
	load()
	pod := n.Pod(t)
	c := pod.Run("counter", name, harness.Counting())
	counted := c.WaitCount(5)
	archive := checkpointOf(t, c)
	c.Remove()
	if config := string(tarFile(t, archive, "config.dump")); !strings.Contains(config,
		`"rootfsImageRef":"`+idOf(t, base)+`"`) {
		t.Fatalf("the checkpoint names its image by more than its ID: %s", config)
	}
	for _, image := range []string{
		imageOf(t, n, archive),
		// as Podman writes it
		publishedImageOf(t, n, rebased(t, archive, name, strings.TrimPrefix(idOf(t, base), "sha256:")), ""),
	} {
		load()
		restored(t, pod, image, counted).Remove()
		n.RemoveImage(idOf(t, base))
		refused(t, pod, image, codes.NotFound, image, idOf(t, base), name, "not on this node", "import it on this node")
		load()
		c := restored(t, pod, image, counted)
		if got := c.Status().GetAnnotations()["org.criu.restore/base-image"]; got != idOf(t, base) {
			t.Errorf("base-image: got %q, want %q", got, idOf(t, base))
		}
		c.Remove()
	}

	// Pulled it has the same ID.
	n.RemoveImage(idOf(t, base))
	n.Registry().Push("pulled:1", base)
	n.Pull(n.Image("pulled:1"))
	image := publishedImageOf(t, n, archive, "")
	restored(t, pod, image, counted).Remove()

	// PullImage of such a checkpoint image tells at once.
	n.RemoveImage(idOf(t, base))
	tag, _ := pushedImageOf(t, n, archive)
	_, err := n.TryPull(tag, "", "")
	requireRefused(t, err, codes.NotFound, tag, idOf(t, base), "not on this node")
}

func rawManifest(t *testing.T, img v1.Image) []byte {
	t.Helper()
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func rawLastLayer(t *testing.T, img v1.Image) []byte {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	r, err := layers[len(layers)-1].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
