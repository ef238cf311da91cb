package integration

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// layerImage pushes an image whose only layer is these entries, and which says that
// it is a checkpoint image. Our own program makes none with such entries.
func layerImage(t testing.TB, n *harness.Node, all []tarEntry) string {
	t.Helper()
	repository := unique("hostile") + ":1"
	n.Registry().Push(repository, hostileImage(t, all))
	return n.Image(repository)
}

func hostileImage(t testing.TB, all []tarEntry) v1.Image {
	t.Helper()
	content := packed(t, all)
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)),
			nil
	},
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.AppendLayers(img, layer); err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return mutate.Annotations(img, map[string]string{"org.criu.checkpoint.container.name": "counter"}).(v1.Image)
}

// refusesImage is refuses for an image of these entries, which is removed afterwards.
// The pull, which looks for the base image, may find out already: the image is then
// on the node nevertheless, and to create a container from it must be refused too.
func (a *target) refusesImage(t *testing.T, all []tarEntry, code codes.Code, words ...string) {
	t.Helper()
	n := a.n.In(t)
	before := n.Inventory(t)
	ref := layerImage(t, n, all)
	if _, err := n.TryPull(ref, "", ""); err != nil {
		requireRefused(t, err, code, append(words, "was pulled, but")...)
		a.requireUnharmed(t, err.Error())
	}
	a.refuses(t, ref, code, words...)
	n.RemoveImage(ref)
	n.RequireNoLeak(t, before)
}

func (a *target) acceptsImage(t *testing.T, all []tarEntry, use func(*harness.Container)) {
	t.Helper()
	n := a.n.In(t)
	before := n.Inventory(t)
	ref := layerImage(t, n, all)
	n.Pull(ref)
	a.accepts(t, ref, use)
	n.RemoveImage(ref)
	n.RequireNoLeak(t, before)
}

// TestAttackImageFiles puts links, FIFOs and devices in the place of each file of a
// checkpoint image. containerd unpacks them all: an ordinary image may have them.
func TestAttackImageFiles(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	t.Run("honest", func(t *testing.T) {
		a.acceptsImage(t, a.honest, func(c *harness.Container) {
			c.Start()
			requireContinues(t, c, a.counted)
		})
	})
	for _, name := range checkpointFiles {
		for _, irregular := range irregularities {
			if irregular.kind == tar.TypeLink {
				continue
			}
			t.Run(name+" is a "+irregular.word, func(t *testing.T) {
				a.refusesImage(t, withEntries(a.honest, specialEntry(irregular.kind, name, a.secret)),
					codes.InvalidArgument, `"`+name+`"`, irregular.word)
			})
		}
	}
	t.Run("a file nobody reads is a symbolic link", func(t *testing.T) {
		a.refusesImage(t, withEntries(a.honest, specialEntry(tar.TypeSymlink, "checkpoint/parent", "/")),
			codes.InvalidArgument, "parent", "link")
	})
	// Only within the layer can there be hard links: they are the file itself.
	for _, name := range checkpointFiles {
		if name == "checkpoint" {
			continue
		}
		t.Run(name+" is a hard link in the layer", func(t *testing.T) {
			i := slices.IndexFunc(a.honest, func(e tarEntry) bool { return path.Clean(e.Name) == name })
			if i < 0 {
				t.Fatalf("an honest checkpoint has no %s", name)
			}
			other := a.honest[i]
			other.Name = "other"
			a.acceptsImage(t, withEntries(a.honest, other, specialEntry(tar.TypeLink, name, "other")), nil)
		})
		t.Run(name+" is a hard link to the host", func(t *testing.T) {
			before := a.n.Inventory(t)
			ref := layerImage(t, a.n, withEntries(a.honest, specialEntry(tar.TypeLink, name, a.secret)))
			_, err := a.n.In(t).TryPull(ref, "", "")
			if err == nil {
				t.Fatal("an image with a hard link to a file of the host was unpacked")
			}
			a.requireUnharmed(t, err.Error())
			a.n.RequireNoLeak(t, before)
		})
	}
	a.goesOn(t)
}

// TestAttackImageShape makes files folders and folders files, and gives images more
// than the node allows.
func TestAttackImageShape(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	for _, name := range []string{"config.dump", "spec.dump", "container.log", "rootfs-diff.tar"} {
		t.Run(name+" is a directory", func(t *testing.T) {
			all := withEntries(a.honest, dirEntry(name))
			words := []string{`"` + name + `"`, "is a directory and should be a regular file"}
			a.refusesImage(t, all, codes.InvalidArgument, words...)
			a.refuses(t, doctoredArchive(t, a.n, all), codes.InvalidArgument, words...)
		})
		t.Run(name+" is large", func(t *testing.T) {
			all := withEntries(a.honest, regularEntry(name, strings.Repeat(" ", 5<<20)))
			a.refusesImage(t, all, codes.ResourceExhausted, name, "max_")
		})
	}
	t.Run("checkpoint is a file", func(t *testing.T) {
		all := withEntries(a.honest, regularEntry("checkpoint", "x"))
		words := []string{`"checkpoint"`, "should be a directory"}
		a.refusesImage(t, all, codes.InvalidArgument, words...)
		a.refuses(t, doctoredArchive(t, a.n, all), codes.InvalidArgument, words...)
	})
	t.Run("status.dump is a directory", func(t *testing.T) {
		// Nobody reads it.
		all := withEntries(a.honest, dirEntry("status.dump"))
		a.acceptsImage(t, all, nil)
		a.accepts(t, doctoredArchive(t, a.n, all), nil)
	})
	t.Run("pages-1.img is a directory", func(t *testing.T) {
		all := withEntries(a.honest, dirEntry("checkpoint/pages-1.img"))
		a.refusesImage(t, all, codes.InvalidArgument, `"pages-1.img"`, "it is a directory")
		a.refuses(t, doctoredArchive(t, a.n, all), codes.InvalidArgument, `"pages-1.img"`, "it is a directory")
	})
	t.Run("entries", func(t *testing.T) {
		all := slices.Clone(a.honest)
		for i := range 2000 {
			all = append(all, regularEntry(fmt.Sprintf("checkpoint/%d.img", i), ""))
		}
		a.refusesImage(t, all, codes.ResourceExhausted, "2000 entries", "max_entries")
	})
	t.Run("depth", func(t *testing.T) {
		a.refusesImage(t, append(slices.Clone(a.honest), regularEntry(strings.Repeat("a/", 20)+"b", "")),
			codes.InvalidArgument, "deep")
	})
	for _, name := range []string{"config.dump", "spec.dump", "checkpoint/descriptors.json"} {
		t.Run(name+" is missing", func(t *testing.T) {
			a.refuses(t, doctoredArchive(t, a.n, withoutEntry(a.honest, name)), codes.InvalidArgument, name, "missing")
		})
	}
	a.goesOn(t)
}
