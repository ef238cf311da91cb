package integration

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// The credentials of the registries that demand some.
const (
	user, password           = "user", "secret"
	otherUser, otherPassword = "other", "hidden"
)

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// requireAuthorization fails the test unless the repository was asked for, with that header
// (containerd begins without one) and with no other. "" is for none at all.
func requireAuthorization(t *testing.T, f *front, repository, want string) {
	t.Helper()
	requests := f.got("/" + repository + "/")
	if len(requests) == 0 {
		t.Errorf("nobody asked for %s", repository)
	}
	with := 0
	for _, r := range requests {
		switch r.authorization {
		case "":
		case want:
			with++
		default:
			t.Errorf("%s %s has the header Authorization: %q, want %q", r.method, r.path, r.authorization, want)
		}
	}
	if want != "" && with == 0 {
		t.Errorf("no request for %s has credentials", repository)
	}
}

// TestPullCredentials pulls checkpoint images with credentials, whose base images are
// where those are valid and where they must not be shown.
func TestPullCredentials(t *testing.T) {
	t.Parallel()
	node := newPullNode(t)
	node.front.registry.RequireAuth(user, password)
	other := newFront(t, harness.NewRegistry(t))

	// pushed puts a checkpoint image on the base into the first registry.
	pushed := func(t *testing.T, n *pullNode, base string) (tag string) {
		t.Helper()
		repository := unique("checkpoint") + ":1"
		n.front.registry.Push(repository, checkpointImage(t, rebased(t, n.archive, "base:1", base)))
		return n.front.ref(repository)
	}

	t.Run("same registry", func(t *testing.T) {
		n := node.sub(t)
		_, repository, reference := n.base(t)
		tag := pushed(t, n, reference)
		n.PullAs(tag, user, password)
		requireAuthorization(t, n.front, repository, basic(user, password))
		requests := len(n.front.got(""))
		restored(t, n.Pod(t), tag, n.counted)
		if got := len(n.front.got("")); got != requests {
			t.Errorf("the creation of the container asked the registry %d times, want never: PullImage had pulled all",
				got-requests)
		}
	})

	t.Run("another registry", func(t *testing.T) {
		n := node.sub(t)
		img := baseImage(t)
		repository := unique("base")
		other.registry.Push(repository+":1", img)
		tag := pushed(t, n, other.ref(repository+"@"+digestOf(t, img)))
		n.PullAs(tag, user, password)
		requireAuthorization(t, other, repository, "")
		restored(t, n.Pod(t), tag, n.counted)
	})

	t.Run("another registry that demands others", func(t *testing.T) {
		n := node.sub(t)
		other.registry.RequireAuth(otherUser, otherPassword)
		defer other.registry.RequireAuth("", "")
		img := baseImage(t)
		repository := unique("base")
		other.registry.Push(repository+":1", img)
		reference := other.ref(repository + "@" + digestOf(t, img))
		tag := pushed(t, n, reference)

		_, err := n.TryPull(tag, user, password)
		requireRefused(t, err, codes.Unauthenticated, tag, reference, "pull it on this node beforehand")
		requireAuthorization(t, other, repository, "")
		pod := n.Pod(t)
		refused(t, pod, tag, codes.Unauthenticated, tag, reference, "no credentials of a pull secret",
			"pull it on this node beforehand")
		requireAuthorization(t, other, repository, "")

		n.PullAs(reference, otherUser, otherPassword)
		n.PullAs(tag, user, password)
		restored(t, pod, tag, n.counted)
	})

	t.Run("absent and private at CreateContainer", func(t *testing.T) {
		n := node.sub(t)
		_, repository, reference := n.base(t)
		image := n.checkpointOn(t, "base:1", reference)
		refused(t, n.Pod(t), image, codes.Unauthenticated, image, reference, "no credentials of a pull secret")
		requireAuthorization(t, n.front, repository, "")
	})

	// Who has no credentials must not get an image by those of somebody else's pull.
	t.Run("not shared", func(t *testing.T) {
		n := node.sub(t)
		img, repository, reference := n.base(t)
		tag, image := pushed(t, n, reference), n.checkpointOn(t, "base:1", reference)
		arrived, release := n.front.hold("/" + repository + "/blobs/" + lastLayer(t, img))
		defer release()
		pulled := make(chan error, 1)
		go func() {
			_, err := n.TryPull(tag, user, password)
			pulled <- err
		}()
		await(t, arrived, "the pull")
		pod, name := n.Pod(t), unique("poor")
		_, err := createWith(callContext(t), pod, name, image)
		requireRefused(t, err, codes.Unauthenticated, image, reference)
		release()
		if err := await(t, pulled, "the pull's end"); err != nil {
			t.Fatal(err)
		}
		if _, err := createWith(callContext(t), pod, name, image); err != nil {
			t.Fatalf("the image is there now: %v", err)
		}
	})

	t.Run("not in the registry", func(t *testing.T) {
		n := node.sub(t)
		reference := n.front.ref(unique("base") + "@" + digestOf(t, baseImage(t)))
		tag := pushed(t, n, reference)
		_, err := n.TryPull(tag, user, password)
		requireRefused(t, err, codes.NotFound, tag, reference, "push it to that repository again")
		if n.ImageStatus(tag) == nil {
			t.Errorf("%s is not on the node, and the error says it is", tag)
		}
	})

	t.Run("registry out of order", func(t *testing.T) {
		n := node.sub(t)
		img := baseImage(t)
		repository := unique("base")
		other.registry.Push(repository+":1", img)
		other.answer("/"+repository+"/manifests/", http.StatusInternalServerError, "text/plain", nil)
		reference := other.ref(repository + "@" + digestOf(t, img))
		tag := pushed(t, n, reference)
		_, err := n.TryPull(tag, user, password)
		requireRefused(t, err, codes.Unavailable, tag, reference, "see that this node reaches the registry")
		pod := n.Pod(t)
		refused(t, pod, tag, codes.Unavailable, tag, reference, "see that this node reaches the registry")
		other.honest("/" + repository + "/manifests/")
		restored(t, pod, tag, n.counted)
	})
}

// TestPullNodeCredentials has credentials in the node's configuration, which apply to a
// base image that CreateContainer pulls: by CRI's registry.configs, and by a header of hosts.d.
func TestPullNodeCredentials(t *testing.T) {
	t.Parallel()
	known := newFront(t, harness.NewRegistry(t))
	known.registry.RequireAuth(user, password)
	node := newPullNode(t, harness.WithConfig(fmt.Sprintf(
		"[plugins.'io.containerd.cri.v1.images'.registry.configs.%q.auth]\nusername = %q\npassword = %q\n", known.host(),
		user, password)))

	t.Run("registry.configs", func(t *testing.T) {
		n := node.sub(t)
		img := baseImage(t)
		repository := unique("base")
		known.registry.Push(repository+":1", img)
		image := n.checkpointOn(t, "base:1", known.ref(repository+"@"+digestOf(t, img)))
		restored(t, n.Pod(t), image, n.counted)
		requireAuthorization(t, known, repository, basic(user, password))
	})
	t.Run("hosts.d", func(t *testing.T) {
		n := node.sub(t)
		n.front.registry.RequireAuth(otherUser, otherPassword)
		_, repository, reference := n.base(t)
		image := n.checkpointOn(t, "base:1", reference)
		pod := n.Pod(t)
		refused(t, pod, image, codes.Unauthenticated, reference)
		requireAuthorization(t, n.front, repository, "")
		writeHosts(t, n.Node, n.front.host(), fmt.Sprintf("server = %[1]q\n[host.%[1]q]\ncapabilities = [\"pull\", "+
			"\"resolve\"]\n[host.%[1]q.header]\nAuthorization = %[2]q\n",
			n.front.server.URL, basic(otherUser, otherPassword)))
		restored(t, pod, image, n.counted)
		requireAuthorization(t, n.front, repository, basic(otherUser, otherPassword))
	})
}
