package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// pullNode is a node with a registry of its own and, beside it, one behind a front,
// where the base images are.
type pullNode struct {
	*harness.Node
	front   *front
	archive string // of a Counting container
	counted int
}

func newPullNode(t *testing.T, opts ...harness.Option) *pullNode {
	t.Helper()
	n := &pullNode{Node: harness.New(t, opts...), front: newFront(t, harness.NewRegistry(t))}
	n.archive, n.counted = countingCheckpoint(t, n.Node)
	return n
}

// sub is the node for a subtest, at whose end nothing may be left.
func (n *pullNode) sub(t *testing.T) *pullNode {
	t.Helper()
	return &pullNode{Node: leakFree(t, n.Node), front: n.front, archive: n.archive, counted: n.counted}
}

// checkpointOn puts a checkpoint image into the node, by import: nothing is pulled.
// It says that the container ran from the reference, which the user had called name.
func (n *pullNode) checkpointOn(t *testing.T, name, reference string) string {
	t.Helper()
	return publishedImageOf(t, n.Node, rebased(t, n.archive, name, reference), "")
}

// base pushes a base image that no node has and returns its repository and reference.
func (n *pullNode) base(t *testing.T) (img v1.Image, repository, reference string) {
	t.Helper()
	img, repository = baseImage(t), unique("base")
	n.front.registry.Push(repository+":1", img)
	return img, repository, n.front.ref(repository + "@" + digestOf(t, img))
}

// requirePulledByDigest fails the test unless the requests for a repository are those of
// one pull by digest: no tag, and nothing twice.
func requirePulledByDigest(t *testing.T, f *front, repository string, img v1.Image) {
	t.Helper()
	seen := map[string]int{}
	for _, r := range f.got("/" + repository + "/") {
		if !strings.Contains(r.path, "sha256:") {
			t.Errorf("%s %s is not by digest", r.method, r.path)
		}
		seen[r.method+" "+r.path]++
	}
	// A second pull would find the content, which containerd gets once for all; but it
	// would ask for the manifest again.
	for request, count := range seen {
		if count != 1 {
			t.Errorf("%s was sent %d times, want once", request, count)
		}
	}
	for _, part := range []string{"/manifests/" + digestOf(t, img), "/blobs/" + idOf(t, img),
		"/blobs/" + lastLayer(t, img)} {
		if seen["GET /v2/"+repository+part] == 0 {
			t.Errorf("%s was not got", part)
		}
	}
}

// TestPullBase creates containers whose base image the node lacks, or has in ways
// that are easy to overlook.
func TestPullBase(t *testing.T) {
	t.Parallel()
	node := newPullNode(t)

	t.Run("absent", func(t *testing.T) {
		n := node.sub(t)
		img, repository, reference := n.base(t)
		image := n.checkpointOn(t, n.front.ref(repository+":1"), reference)
		names := n.Inventory(t).Keys(harness.KindImage)
		c := restored(t, n.Pod(t), image, n.counted)
		requirePulledByDigest(t, n.front, repository, img)
		if got := c.Status().GetAnnotations()["org.criu.restore/base-image"]; got != reference {
			t.Errorf("base-image: got %q, want %q", got, reference)
		}
		if got := strings.TrimSpace(c.Exec("cat", "/etc/base")); !strings.HasPrefix(got, "base-") {
			t.Errorf("the root file system is not the base image's: /etc/base is %q", got)
		}
		var added []string
		for _, name := range n.Inventory(t).Keys(harness.KindImage) {
			if !slices.Contains(names, name) {
				added = append(added, name)
			}
		}
		if want := []string{reference, idOf(t, img)}; !slices.Equal(added, want) {
			t.Errorf("new names of images: got %v, want only %v", added, want)
		}
		if status := n.ImageStatus(n.front.ref(repository + ":1")); status != nil {
			t.Errorf("the tag that the checkpoint names is on the node now: %v", status)
		}
	})

	// CVE-2026-50195: a checkpoint must not say what a tag means.
	t.Run("tag means another image", func(t *testing.T) {
		n := node.sub(t)
		img, repository, reference := n.base(t)
		tag := n.front.ref(repository + ":1")
		other := baseImage(t)
		otherDigest := n.front.registry.Push(repository+":1", other)
		n.Pull(tag)
		for _, reference := range []string{reference, n.front.ref(repository + ":1@" + digestOf(t, img))} {
			image := n.checkpointOn(t, tag, reference)
			c := restored(t, n.Pod(t), image, n.counted)
			if got, want := c.Status().GetAnnotations()["org.criu.restore/base-image"],
				n.front.ref(repository+"@"+digestOf(t, img)); got != want {
				t.Errorf("base-image: got %q, want %q", got, want)
			}
			if got := n.ImageStatus(tag).GetId(); got != idOf(t, other) {
				t.Errorf("%s: image %s on the node, want %s still", tag, got, idOf(t, other))
			}
			if got := n.ImageStatus(idOf(t, img)).GetRepoTags(); len(got) > 0 {
				t.Errorf("the base image got tags %v", got)
			}
			n.RemoveImage(idOf(t, img)) // for the next reference to be pulled too
		}
		if got := n.front.gets("/manifests/" + digestOf(t, img)); got != 2 {
			t.Errorf("the base image was pulled %d times, want once for each reference", got)
		}
		// Pulled again, the tag is the registry's.
		if got := n.Pull(tag); got != idOf(t, other) || !strings.HasSuffix(otherDigest, digestOf(t, other)) {
			t.Errorf("%s: image %s in the registry, want %s still", tag, got, idOf(t, other))
		}
		for _, r := range n.front.got("/" + repository + "/") {
			if r.method != http.MethodGet && r.method != http.MethodHead {
				t.Errorf("the node sent %s %s to the registry", r.method, r.path)
			}
		}
	})

	t.Run("present by another name", func(t *testing.T) {
		n := node.sub(t)
		img := baseImage(t)
		n.Registry().Push("elsewhere:1", img)
		n.Pull(n.Image("elsewhere:1"))
		repository := unique("base") // which no registry has
		image := n.checkpointOn(t, n.front.ref(repository+":1"), n.front.ref(repository+"@"+digestOf(t, img)))
		restored(t, n.Pod(t), image, n.counted)
		if got := n.front.got(repository); len(got) > 0 {
			t.Errorf("a present image was asked for: %v", got)
		}
	})

	t.Run("removed before", func(t *testing.T) {
		n := node.sub(t)
		img, repository, reference := n.base(t)
		n.Pull(reference)
		n.RemoveImage(reference)
		n.Inventory(t) // collects garbage
		got := n.front.gets("/blobs/" + lastLayer(t, img))
		image := n.checkpointOn(t, n.front.ref(repository+":1"), reference)
		restored(t, n.Pod(t), image, n.counted)
		if again := n.front.gets("/blobs/" + lastLayer(t, img)); again != got+1 {
			t.Errorf("the layer was got %d times more, want once", again-got)
		}
	})

	t.Run("index", func(t *testing.T) {
		n := node.sub(t)
		img := baseImage(t)
		idx := indexOf(t, img, nil)
		repository := unique("base")
		n.front.registry.PushIndex(repository+":1", idx)
		image := n.checkpointOn(t, n.front.ref(repository+":1"), n.front.ref(repository+"@"+digestOf(t, idx)))
		restored(t, n.Pod(t), image, n.counted)
		requirePulledByDigest(t, n.front, repository, img)
	})

	// The host of the reference is known to the node's hosts.d alone.
	t.Run("mirror", func(t *testing.T) {
		n := node.sub(t)
		img, repository, _ := n.base(t)
		const host = "registry.example"
		writeHosts(t, n.Node, host, fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n",
			"http://"+host, n.front.server.URL))
		reference := host + "/" + repository + "@" + digestOf(t, img)
		image := n.checkpointOn(t, host+"/"+repository+":1", reference)
		c := restored(t, n.Pod(t), image, n.counted)
		requirePulledByDigest(t, n.front, repository, img)
		if got := c.Status().GetAnnotations()["org.criu.restore/base-image"]; got != reference {
			t.Errorf("base-image: got %q, want %q", got, reference)
		}
	})
}

// writeHosts writes the hosts.toml of a registry host. It goes with the test.
func writeHosts(t *testing.T, n *harness.Node, host, content string) {
	t.Helper()
	dir := filepath.Join(n.HostsDir(), host)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
