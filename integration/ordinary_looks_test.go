package integration

import (
	"maps"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// claims are annotations as a restored container has them. Anybody can write them.
func claimsOfRestore(imageID string) map[string]string {
	return map[string]string{
		"org.criu.restore/id":                  "4c8a8e6e-5a6b-4f35-9c3c-0a8b1d0f7a11",
		"org.criu.restore/checkpoint-image":    "registry.example/counter:1",
		"org.criu.restore/checkpoint-image-id": imageID,
		"org.criu.restore/started-fresh":       "because",
		"org.criu.restore/note":                "x",
	}
}

// pinnedIn says whether CRI shows an image as pinned, which has to be the same in all three calls.
func pinnedIn(t *testing.T, n *harness.Node, id string) bool {
	t.Helper()
	found := func(images []*runtime.Image) bool {
		i := slices.IndexFunc(images, func(img *runtime.Image) bool { return img.GetId() == id })
		if i < 0 {
			t.Fatalf("no image %s among %v", id, images)
		}
		return images[i].GetPinned()
	}
	list, err := n.Images().ListImages(n.Context(), &runtime.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	listed := found(list.GetImages())
	stream, err := n.Images().StreamImages(n.Context(), &runtime.StreamImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var streamed []*runtime.Image
	for {
		resp, err := stream.Recv()
		if err != nil {
			break
		}
		streamed = append(streamed, resp.GetImages()...)
	}
	if got := found(streamed); got != listed {
		t.Errorf("pinned: %t in ListImages, %t in StreamImages", listed, got)
	}
	if got := n.ImageStatus(id).GetPinned(); got != listed {
		t.Errorf("pinned: %t in ListImages, %t in ImageStatus", listed, got)
	}
	return listed
}

// TestOrdinaryAnnotations gives ordinary containers the annotations of restored ones. Whether the plugin is on or not,
// and whenever they were created, they are ordinary containers.
func TestOrdinaryAnnotations(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	checkpoint := imageOf(t, n, archive)
	id := n.ImageStatus(checkpoint).GetId()
	pod := n.Pod(t)
	var with []harness.ContainerOpt
	for key, value := range claimsOfRestore(id) {
		with = append(with, harness.Annotation(key, value))
	}
	create := func(name string) *harness.Container {
		return pod.Create(name, n.Image(harness.Busybox), append(with, harness.Shell("echo fresh; exec sleep 3600"))...)
	}
	before := create("before")
	for _, mode := range []struct {
		name string
		opts []harness.Option
	}{
		{"on", nil},
		{"off", []harness.Option{harness.WithRestoreConfig("enable = false")}},
		{"absent", []harness.Option{harness.WithConfig(`disabled_plugins = ["io.containerd.cri.v1.restore"]`)}},
		{"no CRIU", []harness.Option{harness.WithConfig(`disabled_plugins = []`), harness.WithRestoreConfig("enable = true"),
			harness.WithCRIU(false)}},
		{"on again", []harness.Option{harness.WithCRIU(true)}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			if mode.opts != nil {
				n.Reconfigure(mode.opts...)
			}
			for _, c := range []*harness.Container{before, create("now")} {
				c.Start()
				c.WaitLine("fresh")
				if got := c.Status().GetAnnotations(); !maps.Equal(got, claimsOfRestore(id)) {
					t.Errorf("annotations %v", got)
				}
				c.Remove()
				forgetLog(t, c)
			}
			if pinnedIn(t, n.In(t), id) {
				t.Error("an annotation pins an image")
			}
			before = create("before") // and started in the next mode
		})
	}
	// The twin, of which all of it is true.
	c := restored(t, pod, checkpoint, counted)
	if !pinnedIn(t, n, id) {
		t.Error("the image of a restored container is not pinned")
	}
	n.Restart()
	if !pinnedIn(t, n, id) {
		t.Error("the image of a restored container is not pinned after a restart of containerd")
	}
	c.Remove()
	if pinnedIn(t, n, id) {
		t.Error("the image is pinned after the container has gone")
	}
}

// TestOrdinaryLooksLikeACheckpoint creates containers of ordinary images that have inherited the marks of a checkpoint.
// On every node, under every policy, they are ordinary; a checkpoint is refused there.
func TestOrdinaryLooksLikeACheckpoint(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	checkpoint := imageOf(t, n, archive)
	busybox, err := harness.BusyboxImage()
	if err != nil {
		t.Fatal(err)
	}
	mark := map[string]string{annotationCheckpoint: "counter"}
	labelled := unique("labelled") + ":1"
	n.Registry().Push(labelled, withConfig(t, busybox, func(c *v1.ConfigFile) { c.Config.Labels = mark }))
	marked := unique("marked") + ":1"
	// An image of its own: with the same config it would be another name of busybox.
	n.Registry().Push(marked, annotated(t, withConfig(t, busybox, func(c *v1.ConfigFile) { c.Author = "marked" }), mark))
	images := []string{n.Image(labelled), n.Image(marked)}
	for _, ref := range images {
		n.Pull(ref)
	}
	for _, test := range []struct {
		name string
		node []harness.Option
		pod  []harness.PodOpt
		ctr  []harness.ContainerOpt
		code codes.Code // of a checkpoint
	}{
		{"allowed_images", []harness.Option{harness.WithRestoreConfig(`allowed_images = ["registry.example.com/**"]`)}, nil,
			nil, codes.PermissionDenied},
		{"allowed_namespaces", []harness.Option{harness.WithRestoreConfig("allowed_images = [\"**\"]\nallowed_namespaces " +
			"= [\"batch\"]")}, nil, nil, codes.PermissionDenied},
		{"annotations", []harness.Option{harness.WithRestoreConfig(`allowed_namespaces = ["*"]`)},
			[]harness.PodOpt{harness.PodAnnotation("org.criu.config", "/x"),
				harness.PodAnnotation("org.criu.restore/lazy-pages", "on")},
			[]harness.ContainerOpt{harness.Annotation("org.criu.config", "/x"),
				harness.Annotation("org.criu.restore/note", "x")}, codes.InvalidArgument},
		{"no CRIU", []harness.Option{harness.WithCRIU(false)}, nil, nil, codes.FailedPrecondition},
	} {
		t.Run(test.name, func(t *testing.T) {
			n.Reconfigure(test.node...)
			n := leakFree(t, n)
			pod := n.Pod(t, test.pod...)
			for _, ref := range images {
				c := pod.Run(unique("ordinary"), ref, append(test.ctr, harness.Shell("echo fresh; exec sleep 3600"))...)
				c.WaitLine("fresh")
				if c.Status().GetAnnotations()["org.criu.restore/checkpoint-image"] != "" {
					t.Errorf("%s: it was restored", ref)
				}
			}
			_, err := pod.TryCreate(unique("refused"), checkpoint, test.ctr...)
			requireRefused(t, err, test.code)
		})
	}
	n.Reconfigure(harness.WithCRIU(true))
	restored(t, n.Pod(t), checkpoint, counted)
}

// TestDetectTwins has two references of one image, of which one has the annotation. What is asked for decides,
// whichever was pulled last.
func TestDetectTwins(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	img := onlyLayer(t, archive)
	repository := unique("twins")
	plain, marked := n.Image(repository+":plain"), n.Image(repository+":checkpoint")
	n.Registry().Push(repository+":plain", img)
	n.Registry().Push(repository+":checkpoint", annotated(t, img, map[string]string{annotationCheckpoint: "counter"}))
	pod := n.Pod(t)
	for _, order := range [][]string{{plain, marked}, {marked, plain}} {
		t.Run(order[1]+" last", func(t *testing.T) {
			var id string
			for _, ref := range order {
				id = n.Pull(ref)
			}
			restored(t, pod, marked, counted).Remove()
			restored(t, pod, id, counted).Remove()
			asked := func(word string) harness.ContainerOpt {
				return func(c *runtime.ContainerConfig) { c.Image.UserSpecifiedImage = word }
			}
			c := pod.Create(unique("kubelet"), id, asked(marked))
			if got := c.Status().GetAnnotations()["org.criu.restore/checkpoint-image"]; got != marked {
				t.Errorf("checkpoint-image %q", got)
			}
			c.Remove()
			for _, opts := range [][]harness.ContainerOpt{nil, {asked(plain)}} {
				ref := plain
				if opts != nil {
					ref = id
				}
				c := pod.Create(unique("plain"), ref, append(opts, harness.Command("/bin/true"))...)
				if got := c.Status().GetAnnotations(); len(got) != 0 {
					t.Errorf("%s: annotations %v", ref, got)
				}
				c.Remove()
			}
		})
	}
}
