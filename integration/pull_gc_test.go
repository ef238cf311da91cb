package integration

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// views are the read-only snapshots that restores have now.
func views(t *testing.T, n *harness.Node) []string {
	t.Helper()
	return slices.DeleteFunc(n.Inventory(t).Keys(harness.KindSnapshot),
		func(key string) bool { return !strings.HasPrefix(key, "cri-restore-") })
}

// TestPullGarbage removes images and collects garbage at every moment of a restore.
// An inventory waits for a garbage collection.
func TestPullGarbage(t *testing.T) {
	t.Parallel()
	node := newPullNode(t)

	t.Run("between create and start", func(t *testing.T) {
		n := node.sub(t)
		_, repository, reference := n.base(t)
		image := n.checkpointOn(t, n.front.ref(repository+":1"), reference)
		pod := n.Pod(t)
		c := pod.Create("restored", image)
		n.RemoveImage(image)
		n.RemoveImage(reference)
		if got := views(t, n.Node); len(got) != 1 {
			t.Fatalf("views after the removal of the image: got %v, want one", got)
		}
		if got := n.Inventory(t).Keys(harness.KindImage); slices.Contains(got, image) || slices.Contains(got, reference) {
			t.Fatalf("the images are still there: %v", got)
		}
		n.Restart()
		if got := views(t, n.Node); len(got) != 1 {
			t.Fatalf("views after a restart: got %v, want one", got)
		}
		c.Start()
		if got := views(t, n.Node); len(got) > 0 {
			t.Errorf("views after the start: got %v, want none", got)
		}
		requireContinues(t, c, n.counted)
		requireNoViewMount(t, n.Node)
	})

	t.Run("while the base image is pulled", func(t *testing.T) {
		n := node.sub(t)
		img, repository, reference := n.base(t)
		image := n.checkpointOn(t, n.front.ref(repository+":1"), reference)
		arrived, release := n.front.hold(lastLayer(t, img))
		defer release()
		pod := n.Pod(t)
		type created struct {
			c   *harness.Container
			err error
		}
		done := make(chan created, 1)
		go func() {
			c, err := pod.TryCreate("restored", image)
			done <- created{c, err}
		}()
		await(t, arrived, "the pull")
		n.RemoveImage(image)
		if got := views(t, n.Node); len(got) != 1 {
			t.Errorf("views after the removal of the image: got %v, want one", got)
		}
		release()
		got := await(t, done, "the container")
		if got.err != nil {
			t.Fatal(got.err)
		}
		n.Inventory(t)
		got.c.Start()
		requireContinues(t, got.c, n.counted)
	})

	t.Run("base image removed at any moment", func(t *testing.T) {
		n := node.sub(t)
		_, repository, reference := n.base(t)
		image := n.checkpointOn(t, n.front.ref(repository+":1"), reference)
		pod := n.Pod(t)
		const rounds = 8
		for range rounds {
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					select {
					case <-stop:
						return
					default:
						_, _ = n.Images().RemoveImage(n.Context(),
							&runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: reference}})
					}
				}
			}()
			c, err := pod.TryCreate(unique("restored"), image)
			close(stop)
			<-stopped
			if err != nil {
				// The image was there when it was looked for, and gone when it was needed.
				if code := status.Code(err); code != codes.NotFound && code != codes.FailedPrecondition {
					t.Errorf("got %s: %v", code, err)
				}
				requireNoRestore(t, n.Node)
				continue
			}
			c.Start()
			requireContinues(t, c, n.counted)
			c.Remove()
		}
		restored(t, pod, image, n.counted)
	})
}

// requireNoViewMount fails the test if a checkpoint image is still mounted.
func requireNoViewMount(t *testing.T, n *harness.Node) {
	t.Helper()
	for _, mount := range n.Inventory(t).Keys(harness.KindMount) {
		if strings.Contains(mount, "/io.containerd.cri.v1.restore/") {
			t.Errorf("%s is still mounted", mount)
		}
	}
}
