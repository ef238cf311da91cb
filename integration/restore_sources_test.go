package integration

import (
	"strings"
	"sync"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/image"
)

// TestRestoreSources restores one counter from everything that a checkpoint can be
// given as (points 3, 6 and 7): it goes on with the next number, and its log is one story.
func TestRestoreSources(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	archive, counted := countingCheckpoint(t, n)
	tag, digest := pushedImageOf(t, n, archive)
	n.Pull(tag)
	n.Pull(digest)
	id := n.ImageStatus(tag).GetId()

	userSpecified := func(name string) harness.ContainerOpt {
		return func(c *runtime.ContainerConfig) { c.Image.UserSpecifiedImage = name }
	}
	for _, source := range []struct {
		name, image string
		shown       string // in the annotation checkpoint-image
		opt         harness.ContainerOpt
	}{
		{name: "archive", image: archive},
		{name: "archive gzip", image: compressed(t, archive, image.Gzip)},
		{name: "archive zstd", image: compressed(t, archive, image.Zstd)},
		{name: "tag", image: tag},
		{name: "digest", image: digest},
		// The kubelet sends the ID, and beside it what the pod spec says.
		{name: "ID of tag", image: id, opt: userSpecified(tag), shown: tag},
		{name: "ID of digest", image: id, opt: userSpecified(digest), shown: digest},
		{name: "ID alone", image: id, opt: userSpecified(""), shown: tag},
		{name: "ID without algorithm", image: strings.TrimPrefix(id, "sha256:"), opt: userSpecified(tag), shown: tag},
		{name: "published", image: publishedImageOf(t, n, archive, "")},
	} {
		t.Run(source.name, func(t *testing.T) {
			n := n.In(t)
			before := n.Inventory(t)
			pod := n.Pod(t)
			opt := source.opt
			if opt == nil {
				opt, source.shown = userSpecified(source.image), source.image
			}
			c := pod.Run("restored", source.image, opt)
			requireContinues(t, c, counted)
			if got := c.Status().GetAnnotations()["org.criu.restore/checkpoint-image"]; got != source.shown {
				t.Errorf("annotation checkpoint-image: got %q, want %q", got, source.shown)
			}
			pod.Remove()
			n.RequireNoLeak(t, before)
		})
	}
}

// TestRestoreManyFromOne restores several containers at the same time from one image,
// some of them in one pod, beside a container that is not restored (point 8).
func TestRestoreManyFromOne(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	name := imageOf(t, n, archive)
	before := n.Inventory(t)

	shared := n.Pod(t)
	ordinary := shared.Run("ordinary", n.Image(harness.Busybox), harness.Counting())
	pods := []*harness.Pod{shared, shared, n.Pod(t)}
	restored := make([]*harness.Container, len(pods))
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, pod := range pods {
		wg.Go(func() {
			if restored[i], errs[i] = pod.TryCreate(unique("restored"), name); errs[i] == nil {
				errs[i] = restored[i].TryStart()
			}
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("container %d: %v", i, err)
		}
		requireContinues(t, restored[i], counted)
	}
	// What is done to one does not show in the others.
	restored[0].Exec("touch", "/only-here")
	for _, c := range append(restored[1:], ordinary) {
		if _, _, code, err := c.TryExec("test", "-e", "/only-here"); err != nil || code == 0 {
			t.Errorf("%s sees a file of another container (exit code %d, error %v)", c.Config.GetMetadata().GetName(), code, err)
		}
	}
	restored[0].Remove()
	restored[1].WaitCount(harness.Count(restored[1].Log()) + 3)
	ordinary.WaitCount(harness.Count(ordinary.Log()) + 3)

	for _, pod := range pods[1:] {
		pod.Remove()
	}
	n.RequireNoLeak(t, before)
}

// TestRestoreGenerations checkpoints what was restored and restores that, three
// times, from archives and from images (point 8). What each generation changed is in the last.
func TestRestoreGenerations(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	for _, kind := range []struct {
		name string
		as   func(archive string) string
	}{
		{"archive", func(archive string) string { return archive }},
		{"image", func(archive string) string { return imageOf(t, n, archive) }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			n := n.In(t)
			archive, counted := countingCheckpoint(t, n)
			var base string
			for generation := range 3 {
				pod := n.Pod(t)
				c := pod.Run("restored", kind.as(archive))
				counted = requireContinuesAgain(t, c, counted, generation)

				annotation := c.Status().GetAnnotations()["org.criu.restore/base-image"]
				if base == "" {
					base = annotation
				}
				if annotation == "" || annotation != base {
					t.Errorf("generation %d: base image %q, want %q as in the first", generation, annotation, base)
				}
				for earlier := range generation {
					c.Exec("test", "-e", "/generation-"+string(rune('0'+earlier)))
				}
				c.Exec("touch", "/generation-"+string(rune('0'+generation)))
				if generation > 0 {
					c.Exec("test", "!", "-e", "/data/delete-me")
				}
				c.Exec("rm", "-f", "/data/delete-me")
				archive = checkpointOf(t, c)
				pod.Remove()
			}
		})
	}
}
