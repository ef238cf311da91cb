package integration

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// stockBinary is containerd of the same version without the plugin.
func stockBinary(t testing.TB) harness.Option {
	t.Helper()
	file := filepath.Join(harness.Require(t).Bin, "containerd-stock")
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("%v: run make build-stock", err)
	}
	return harness.WithBinary(file)
}

// containerID is what differs between the errors of two nodes about the same thing.
var containerID = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

// requireSame fails the test unless two nodes' errors have the same code and text. The
// texts in same may stand for each other.
func requireSame(t testing.TB, what string, ours, stock error, same ...string) {
	t.Helper()
	if ours == nil || stock == nil {
		t.Errorf("%s: got %v, the stock containerd %v, want errors", what, ours, stock)
		return
	}
	if got, want := status.Code(ours), status.Code(stock); got != want {
		t.Errorf("%s: got code %s, the stock containerd answers %s", what, got, want)
	}
	normal := func(err error) string {
		text := containerID.ReplaceAllString(err.Error(), "ID")
		for _, s := range same {
			text = strings.ReplaceAll(text, s, "SAME")
		}
		return text
	}
	if got, want := normal(ours), normal(stock); got != want {
		t.Errorf("%s: got\n %s\nthe stock containerd answers\n %s", what, got, want)
	}
}

// TestDetectNothing creates containers of images that are no checkpoint or none at
// all. A stock containerd beside ours says what is right.
func TestDetectNothing(t *testing.T) {
	t.Parallel()
	r := harness.NewRegistry(t)
	n, stock := harness.New(t, harness.WithRegistry(r)), harness.New(t, harness.WithRegistry(r), stockBinary(t))
	nodes := []*harness.Node{n, stock}
	pods := []*harness.Pod{n.Pod(t), stock.Pod(t)}
	// both returns the errors of the two nodes for the same image.
	both := func(t *testing.T, image string) (ours, theirs error) {
		t.Helper()
		var errs [2]error
		for i, n := range nodes {
			before := n.Inventory(t)
			_, errs[i] = pods[i].TryCreate("same", image)
			n.RequireNoLeak(t, before)
		}
		return errs[0], errs[1]
	}

	t.Run("not found", func(t *testing.T) {
		for _, image := range []string{
			r.Ref("none:1"), r.Ref("none@" + digest.FromString("none").String()), digest.FromString("none").String(),
			strings.Repeat("0", 64), "none", "", "registry.example/Upper:1", "relative/path.tar", "./path.tar",
		} {
			ours, theirs := both(t, image)
			requireSame(t, image, ours, theirs)
		}
		ours, _ := both(t, r.Ref("none:1"))
		requireRefused(t, ours, codes.NotFound, "none:1")
	})
	t.Run("manifest removed", func(t *testing.T) {
		img := baseImage(t)
		ref := r.Push(unique("broken")+":1", img)
		for _, n := range nodes {
			n := leakFree(t, n)
			n.Pull(ref)
			if err := n.Client().ContentStore().Delete(n.Context(), digest.Digest(digestOf(t, img))); err != nil {
				t.Fatal(err)
			}
		}
		ours, theirs := both(t, ref)
		requireSame(t, "manifest removed", ours, theirs)
	})
	t.Run("annotation without checkpoint", func(t *testing.T) {
		n := leakFree(t, n)
		ref := r.Push(unique("hollow")+":1", annotated(t, baseImage(t), map[string]string{annotationCheckpoint: "counter"}))
		n.Pull(ref)
		ordinary(t, n.Pod(t), ref)
		const warning = "has the annotations of a checkpoint but holds none"
		if log := n.DaemonLog(); !strings.Contains(log, "level=warning") || !strings.Contains(log, warning) {
			t.Errorf("containerd's log does not warn that the image %s", warning)
		}
	})
	t.Run("annotation and half a checkpoint", func(t *testing.T) {
		n := leakFree(t, n)
		img := withLayer(t, baseImage(t), tarOf(t, map[string]string{"config.dump": "{}", "spec.dump": "{}",
			"checkpoint/pstree.img": ""}))
		ref := r.Push(unique("half")+":1", annotated(t, img, map[string]string{annotationCheckpoint: "counter"}))
		n.Pull(ref)
		ordinary(t, n.Pod(t), ref)
	})
}

// TestDetectBrokenCheckpoint creates containers from images that do hold a
// checkpoint, but a bad one: they must not run as ordinary ones.
func TestDetectBrokenCheckpoint(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	pod := n.Pod(t)
	link := func(name string) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		if err := errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: "/etc/passwd",
			Mode: 0o777}), w.Close()); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	for _, test := range []struct {
		name string
		img  func(t *testing.T) v1.Image
		word string
	}{
		{"metadata is no JSON", func(t *testing.T) v1.Image {
			return checkpointImage(t, edited(t, archive, map[string]edit{"spec.dump": func([]byte) ([]byte,
				bool) {
				return []byte("{"), true
			}}))
		}, "spec.dump"},
		{"metadata is a link", func(t *testing.T) v1.Image {
			return withLayer(t, checkpointImage(t, archive),
				link("config.dump"))
		}, "config.dump"},
		{"CRIU image is a link", func(t *testing.T) v1.Image {
			return withLayer(t, checkpointImage(t, archive), link("checkpoint/inventory.img"))
		}, "checkpoint/inventory.img"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := leakFree(t, n)
			repository := unique("bad") + ":1"
			n.Registry().Push(repository, test.img(t))
			ref := n.Image(repository)
			// The image is there, and the one who pulled it knows that it is no good.
			_, err := n.TryPull(ref, "", "")
			requireRefused(t, err, codes.InvalidArgument, ref, test.word)
			if n.ImageStatus(ref) == nil {
				t.Errorf("image %s is not on the node", ref)
			}
			refused(t, pod, ref, codes.InvalidArgument, ref, test.word)
		})
	}
	t.Run("honest, then without its manifest", func(t *testing.T) {
		n := leakFree(t, n)
		repository := unique("good") + ":1"
		img := checkpointImage(t, archive)
		n.Registry().Push(repository, img)
		ref := n.Image(repository)
		n.Pull(ref)
		restored(t, pod, ref, counted).Remove()
		if err := n.Client().ContentStore().Delete(n.Context(), digest.Digest(digestOf(t, img))); err != nil {
			t.Fatal(err)
		}
		refused(t, pod, ref, codes.NotFound, ref, digestOf(t, img))
		n.Pull(ref)
		restored(t, pod, ref, counted).Remove()
	})
}
