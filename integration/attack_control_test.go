package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestAttackRestoreFromPath has images whose annotations would make containerd restore from a folder
// of the host, if they were handed to it with a checkpoint (containerd: plugins/services/tasks, Create).
func TestAttackRestoreFromPath(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	// What would be restored from there: the same checkpoint, but its process is in mid-air.
	folder := filepath.Join(a.n.Dir(), "folder")
	for _, e := range withEntries(a.honest, regularEntry("checkpoint/core-1.img", "no image")) {
		if e.FileInfo().Mode().IsRegular() {
			writeHostFile(t, filepath.Join(folder, e.Name), string(e.content))
		}
	}
	evil := map[string]string{"RestoreFromPath": folder, annotationCheckpoint: "counter"}
	plain := onlyLayer(t, a.archive)
	for name, push := range map[string]func(n *harness.Node) string{
		"manifest": func(n *harness.Node) string { return n.Registry().Push(unique("path")+":1", annotated(t, plain, evil)) },
		"index": func(n *harness.Node) string {
			return n.Registry().PushIndex(unique("path")+":1", annotatedIndex(t, plain, evil))
		},
		"descriptor in the index": func(n *harness.Node) string {
			return n.Registry().PushIndex(unique("path")+":1", indexOf(t, plain, evil))
		},
		"honest twin, none of them": func(n *harness.Node) string {
			return n.Registry().Push(unique("path")+":1", checkpointImage(t, a.archive))
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := leakFree(t, a.n)
			ref := push(n)
			n.Pull(ref)
			restored(t, n.Pod(t), ref, a.counted)
			a.requireUnharmed(t)
		})
	}
	t.Run("descriptor of the image store", func(t *testing.T) {
		n := leakFree(t, a.n)
		ref := n.Image(unique("imported") + ":1")
		n.Ctr("images", "import", "--local", layoutTar(t, n, plain, ref, evil))
		awaitImage(t, n, ref)
		restored(t, n.Pod(t), ref, a.counted)
	})
	t.Run("ordinary image", func(t *testing.T) {
		n := leakFree(t, a.n)
		ref := n.Registry().Push(unique("path")+":1", annotated(t, baseImage(t),
			map[string]string{"RestoreFromPath": folder}))
		n.Pull(ref)
		ordinary(t, n.Pod(t), ref)
	})
	a.goesOn(t)
}

// annotatedIndex is an index with annotations of its own.
func annotatedIndex(t testing.TB, img v1.Image, annotations map[string]string) v1.ImageIndex {
	t.Helper()
	idx, ok := mutate.Annotations(indexOf(t, img, nil), annotations).(v1.ImageIndex)
	if !ok {
		t.Fatal("an annotated index is no index")
	}
	return idx
}

// TestAttackAnnotationOnly marks images as checkpoints that are none, and ones that may not be
// restored: the mark alone opens nothing.
func TestAttackAnnotationOnly(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	signed := a.n.Image("signed/**")
	a.n.Reconfigure(harness.WithRestoreConfig(fmt.Sprintf("allowed_images = [%q]", signed)))
	push := func(n *harness.Node, repository string, img v1.Image) string {
		n.Registry().Push(repository, img)
		n.Pull(n.Image(repository))
		return n.Image(repository)
	}
	t.Run("no checkpoint in it", func(t *testing.T) {
		n := leakFree(t, a.n)
		mark := map[string]string{annotationCheckpoint: "counter"}
		ordinary(t, n.Pod(t), push(n, "signed/hollow:1", annotated(t, baseImage(t), mark)))
		// The policy is about checkpoints, which this is none.
		ordinary(t, n.Pod(t), push(n, unique("unsigned")+":1", annotated(t, baseImage(t), mark)))
	})
	t.Run("no annotation on it", func(t *testing.T) {
		n := leakFree(t, a.n)
		// It has no command of its own, and is not restored: containerd's answer is that of any such image.
		_, err := a.pod.TryCreate("victim", push(n, unique("unsigned")+":1", onlyLayer(t, a.archive)))
		requireRefused(t, err, codes.Unknown, "no command specified")
	})
	t.Run("not allowed", func(t *testing.T) {
		n := leakFree(t, a.n)
		ref := push(n, unique("unsigned")+":1", checkpointImage(t, a.archive))
		refused(t, a.pod, ref, codes.PermissionDenied, ref, "allowed_images")
		restored(t, n.Pod(t), push(n, "signed/app:1", withLayer(t, checkpointImage(t, a.archive),
			tarOf(t, map[string]string{"twin": "x"}))), a.counted)
	})
	a.goesOn(t)
}

// TestAttackMany lets many restores fail at once, before containerd creates the container and
// after it: none leaves anything, and none stands in the way of another.
func TestAttackMany(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	early := doctoredArchive(t, a.n, withEntries(a.honest, regularEntry("spec.dump", "{")))
	late := doctoredArchive(t, a.n, a.diffed(t, regularEntry("../evil", "evil")))
	image := layerImage(t, a.n, a.diffed(t, regularEntry("../evil", "evil")))
	a.n.Pull(image)
	before := a.n.Inventory(t)
	logs := fileNames(t, a.pod.Config.GetLogDirectory())
	const each = 8
	var wg sync.WaitGroup
	for i := range each {
		for name, source := range map[string]string{"early": early, "late": late, "image": image} {
			wg.Go(func() {
				_, err := a.pod.TryCreate(fmt.Sprintf("%s-%d", name, i), source)
				requireRefused(t, err, codes.InvalidArgument, source)
			})
		}
		wg.Go(func() {
			c, err := a.pod.TryCreate(fmt.Sprintf("twin-%d", i), a.archive)
			if err != nil {
				t.Errorf("an honest checkpoint beside hostile ones: %v", err)
				return
			}
			if err := c.TryRemove(); err != nil {
				t.Error(err)
			}
			forgetLog(t, c)
		})
	}
	wg.Wait()
	a.n.RequireNoLeak(t, before)
	if after := fileNames(t, a.pod.Config.GetLogDirectory()); !slices.Equal(logs, after) {
		t.Errorf("log directory: %q, want %q as before", after, logs)
	}
	a.requireUnharmed(t)
	a.goesOn(t)
}

// TestAttackTogether starts, checkpoints and removes a container that is to be restored, all at
// the same time.
func TestAttackTogether(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	before := a.n.Inventory(t)
	for range 3 {
		c := a.pod.Create("counter", a.archive)
		var (
			wg     sync.WaitGroup
			starts [4]error
		)
		for i := range starts {
			wg.Go(func() { starts[i] = c.TryStart() })
		}
		wg.Go(func() {
			file := filepath.Join(a.n.Dir(), unique("meanwhile")+".tar")
			defer os.Remove(file)
			// Running or not, it is one of the two.
			if err := c.TryCheckpoint(file); err != nil && !strings.Contains(err.Error(), "only CONTAINER_RUNNING") {
				t.Errorf("checkpoint meanwhile: %v", err)
			}
		})
		wg.Wait()
		started := 0
		for _, err := range starts {
			if err == nil {
				started++
			} else if code := status.Code(err); code == codes.OK || code == codes.Internal {
				t.Errorf("another start: %v", err)
			}
		}
		if started != 1 {
			t.Errorf("%d of %d starts succeeded, want one: %v", started, len(starts), starts)
		}
		requireContinues(t, c, a.counted)
		c.Remove()
		forgetLog(t, c)
		a.n.RequireNoLeak(t, before)
	}
	t.Run("removed meanwhile", func(t *testing.T) {
		for range 5 {
			c := a.pod.Create("counter", a.archive)
			var wg sync.WaitGroup
			wg.Go(func() { _ = c.TryStart() }) // either comes first
			wg.Go(func() { _ = c.TryRemove() })
			wg.Wait()
			c.Remove()
			forgetLog(t, c)
			a.n.RequireNoLeak(t, before)
		}
	})
	a.goesOn(t)
}

// TestAttackPlatform has checkpoints of another architecture, and of another runtime.
func TestAttackPlatform(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	t.Run("image of another architecture", func(t *testing.T) {
		n := leakFree(t, a.n)
		foreign := withConfig(t, onlyLayer(t, a.archive), func(c *v1.ConfigFile) { c.Architecture = "s390x" })
		mark := map[string]string{annotationCheckpoint: "counter"}
		ref := n.Registry().PushIndex(unique("foreign")+":1", indexOf(t, foreign, mark))
		_, err := n.TryPull(ref, "", "")
		requireRefused(t, err, codes.NotFound)
		refused(t, a.pod, ref, codes.NotFound, ref)
		// The index stays behind: containerd's own doing, for any image.
		if err := n.Client().ImageService().Delete(n.Context(), ref); err != nil {
			t.Error(err)
		}
		both := mutate.AppendManifests(indexOf(t, foreign, mark),
			mutate.IndexAddendum{Add: onlyLayer(t, a.archive), Descriptor: v1.Descriptor{
				Platform: &v1.Platform{OS: "linux", Architecture: platform(t)}, Annotations: mark,
			}})
		ref = n.Registry().PushIndex(unique("both")+":1", both)
		n.Pull(ref)
		restored(t, n.Pod(t), ref, a.counted)
	})
	// Who dumped it is told and decides nothing: the pod's handler is what restores.
	t.Run("another runtime", func(t *testing.T) {
		config := jsonFile(t, a.honest, "config.dump", func(o object) { o["runtime"] = "io.containerd.kata.v2" })
		a.accepts(t, doctoredArchive(t, a.n, withEntries(a.honest, config)), func(c *harness.Container) {
			c.Start()
			requireContinues(t, c, a.counted)
			if got := c.Pod.Status().GetRuntimeHandler(); got != "" && got != "runc" {
				t.Errorf("runtime handler %q", got)
			}
		})
	})
	a.goesOn(t)
}

func platform(t testing.TB) string {
	t.Helper()
	busybox, err := harness.BusyboxImage()
	if err != nil {
		t.Fatal(err)
	}
	config, err := busybox.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return config.Architecture
}

// TestAttackClasses gives the request the classes of RDT and block I/O that a checkpoint must not
// bring (TestAttackMetadataClaims): the request's are heard, with or without a checkpoint.
func TestAttackClasses(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	before := a.n.Inventory(t)
	for _, image := range []string{a.archive, a.n.Image(harness.Busybox)} {
		for _, key := range []string{"io.kubernetes.cri.blockio-class", "io.kubernetes.cri.rdt-class"} {
			_, err := a.pod.TryCreate("classed", image, harness.Counting(), harness.Annotation(key, "gold"))
			requireRefused(t, err, codes.Unknown, "class", "gold")
			a.n.RequireNoLeak(t, before)
		}
	}
	config := jsonFile(t, a.honest, "status.dump", func(o object) {
		o["annotations"] = object{"io.kubernetes.cri.blockio-class": "gold", "io.kubernetes.cri.rdt-class": "gold"}
	})
	a.accepts(t, doctoredArchive(t, a.n, withEntries(a.honest, config)), func(c *harness.Container) {
		c.Start()
		requireContinues(t, c, a.counted)
		if shown := a.n.Crictl("inspect", c.ID); strings.Contains(shown, "gold") {
			t.Errorf("a class of the checkpoint shows up: %s", shown)
		}
	})
}
