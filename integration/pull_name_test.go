package integration

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// knownByName turns a checkpoint into one that knows its base image as Podman's does, by ID and name.
func knownByName(t *testing.T, n *harness.Node, archive, id, name string) string {
	t.Helper()
	all := entriesOf(t, archive)
	return doctoredArchive(t, n, withEntries(all,
		jsonFile(t, all, "config.dump", func(c object) {
			c["rootfsImageID"], c["rootfsImageName"], c["RawImageName"] = strings.TrimPrefix(id, "sha256:"), name, name
			delete(c, "rootfsImageRef")
			delete(c, "rootfsImage")
		}),
		jsonFile(t, all, "spec.dump", func(s object) { s["annotations"] = object{"io.container.manager": "libpod"} }),
		regularEntry("ctr.log", contentOf(t, all, "container.log")),
		regularEntry("rootfs-diff.tar", string(packed(t, nil))), // Podman's is plain
	))
}

// TestPullByName has the base image of Podman-like checkpoints pulled: by the digest that the name has now, if it is
// that image. No tag is made.
func TestPullByName(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	busybox, err := harness.BusyboxImage()
	if err != nil {
		t.Fatal(err)
	}
	img := withLayer(t, busybox, packed(t, []tarEntry{regularEntry("of-the-base", "x")}))
	repository := unique("base")
	digest := n.Registry().Push(repository+":1", img)
	tag := n.Image(repository + ":1")
	n.Pull(digest)
	pod := n.Pod(t)
	old := pod.Run("counter", digest, harness.Counting())
	counted := old.WaitCount(5)
	archive := knownByName(t, n, checkpointOf(t, old), idOf(t, img), tag)
	pod.Remove()
	n.RemoveImage(digest)
	if slices.Contains(imageIDs(t, n), idOf(t, img)) {
		t.Fatal("the base image is still there")
	}
	pod = n.Pod(t)
	before := n.Inventory(t)

	// The tag is another image's now.
	n.Registry().Push(repository+":1", withLayer(t, busybox, packed(t, []tarEntry{regularEntry("of-another", "x")})))
	_, err = pod.TryCreate("refused", archive)
	requireRefused(t, err, codes.FailedPrecondition, tag, idOf(t, img), "is another one now")
	n.RequireNoLeak(t, before)

	n.Registry().Push(repository+":1", img)
	c := pod.Run("restored", archive)
	requireContinues(t, c, counted)
	c.Exec("test", "-e", "/of-the-base")
	if got := c.Status().GetAnnotations()["org.criu.restore/base-image"]; got != digest {
		t.Errorf("base image %q, want %q", got, digest)
	}
	if status := n.ImageStatus(digest); slices.Contains(status.GetRepoTags(), tag) {
		t.Errorf("the tag was made: %v", status.GetRepoTags())
	}
	c.Remove()
	pod.Remove()
	n.RemoveImage(digest)

	// Nobody is asked where nothing may be pulled.
	n.Reconfigure(harness.WithRestoreConfig("pull_base_images = false"))
	asked := len(n.Registry().Requests(""))
	_, err = n.Pod(t).TryCreate("refused", archive)
	requireRefused(t, err, codes.FailedPrecondition, "pull_base_images = false")
	if now := n.Registry().Requests(""); len(now) != asked {
		t.Errorf("the registry was asked: %v", now[asked:])
	}
}
