// Package stock compares our build with the stock containerd of the same version, call by call: seeded random sequences
// of all methods of CRI, and chosen cases. For whatever is not a checkpoint both must answer the same; what is meant to
// differ stands in one table, with the document that says so.
package stock

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/cri-restore/cri-restore/integration/harness"
)

var (
	seed  = flag.Int64("seed", 20261201, "of the random sequence")
	steps = flag.Int("steps", 40, "random calls in each configuration")
)

// mode is a configuration in which our build is compared.
type mode struct {
	name string
	// ours is for our build, both for either.
	ours, both []harness.Option
}

var modes = []mode{
	{"default", nil, nil},
	{"enable = false", []harness.Option{harness.WithRestoreConfig("enable = false")}, nil},
	{"no CRIU", nil, []harness.Option{harness.WithCRIU(false)}},
	{"disabled_plugins", []harness.Option{harness.WithConfig(`disabled_plugins = ["io.containerd.cri.v1.restore"]`)}, nil},
}

// TestStock makes all chosen cases and -steps random calls in every configuration.
func TestStock(t *testing.T) {
	binary := filepath.Join(harness.Require(t).Bin, "containerd-stock")
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v: run make build-stock", err)
	}
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			registry := harness.NewRegistry(t)
			images := pushImages(t, registry)
			ours := harness.New(t, append(append(m.ours, m.both...), harness.WithRegistry(registry),
				harness.WithLogLevel("info"))...)
			stock := harness.New(t, append(m.both, harness.WithRegistry(registry), harness.WithLogLevel("info"),
				harness.WithBinary(binary))...)
			w := newWorld(t, m.name, images, ours, stock)
			w.cases()
			w.forget()
			for w.step = 1; w.step <= *steps; w.step++ {
				w.random()
				if t.Failed() && w.differences > 20 {
					t.Fatal("too many differences")
				}
			}
			w.forget()
			w.compareEvents()
			w.requireMeant()
			w.requireAllMethods()
			t.Logf("seed %d: %d calls compared, %d differences as meant", *seed, w.calls, w.meant)
		})
	}
}

// images are ordinary ones that look like checkpoints, or are otherwise unlike busybox.
func pushImages(t *testing.T, registry *harness.Registry) []string {
	t.Helper()
	busybox, err := harness.BusyboxImage()
	if err != nil {
		t.Fatal(err)
	}
	const mark = "org.criu.checkpoint.container.name"
	config := func(change func(*v1.ConfigFile)) v1.Image {
		file, err := busybox.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		file = file.DeepCopy()
		change(file)
		img, err := mutate.ConfigFile(busybox, file)
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	annotated := func(img v1.Image) v1.Image {
		return mutate.Annotations(img, map[string]string{mark: "c"}).(v1.Image)
	}
	var refs []string
	for name, img := range map[string]v1.Image{
		"labelled:1":  config(func(c *v1.ConfigFile) { c.Config.Labels = map[string]string{mark: "c"} }),
		"annotated:1": annotated(config(func(c *v1.ConfigFile) { c.Author = "annotated" })),
		"twin:plain":  config(func(c *v1.ConfigFile) { c.Author = "twin" }),
		"twin:marked": annotated(config(func(c *v1.ConfigFile) { c.Author = "twin" })),
		"user:1": config(func(c *v1.ConfigFile) {
			c.Config.WorkingDir, c.Config.Env, c.Config.Cmd = "/tmp", append(c.Config.Env, "A=b"), []string{"sleep", "1000"}
			c.Config.Volumes, c.Config.StopSignal = map[string]struct{}{"/volume": {}}, "SIGKILL"
		}),
	} {
		registry.Push(name, img)
		refs = append(refs, registry.Ref(name))
	}
	return refs
}
