package cri

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/policy"
)

// withoutBase takes the base image from the CRI. Its pull gives it back.
func (w *world) withoutBase() {
	w.t.Helper()
	w.images.mu.Lock()
	maps.DeleteFunc(w.images.known, func(_, id string) bool { return id == w.baseID })
	w.images.mu.Unlock()
	w.images.pull = func(_ context.Context, r *runtime.PullImageRequest) (string, error) {
		if ref := r.GetImage().GetImage(); ref != baseRepository+"@"+w.base {
			return w.images.known[ref], nil // the checkpoint image, there already
		}
		w.images.add(w.baseID, w.baseID)
		return w.baseID, nil
	}
}

func pullRequest(ref string) *runtime.PullImageRequest {
	return &runtime.PullImageRequest{
		Image: &runtime.ImageSpec{Image: ref, RuntimeHandler: "h"}, SandboxConfig: &runtime.PodSandboxConfig{Hostname: "h"},
		Auth: &runtime.AuthConfig{Username: "u", Password: "p"},
	}
}

func TestPullOfACheckpointImagePullsItsBase(t *testing.T) {
	for name, c := range map[string]struct {
		image string
		auth  bool
	}{
		"same registry":    {checkpointName, true},
		"another registry": {"registry.evil/counter:1", false},
		"another port":     {"registry.example:5000/counter:1", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			id := w.checkpointImage(c.image, w.files())
			w.withoutBase()
			before := w.inventory()
			r := pullRequest(c.image)
			given := proto.Clone(r)
			resp, err := w.service.PullImage(w.ctx, r)
			check(t, err)
			if resp.GetImageRef() != id || !proto.Equal(r, given) {
				t.Errorf("got %v for %v", resp, r)
			}
			if len(w.images.pulls) != 2 || w.images.pulls[0] != r {
				t.Fatalf("pulls %v", w.images.pulls)
			}
			base := w.images.pulls[1]
			if base.GetImage().GetImage() != baseRepository+"@"+w.base || base.GetImage().GetRuntimeHandler() != "h" ||
				base.GetSandboxConfig().GetHostname() != "h" {
				t.Errorf("pulled %v", base)
			}
			if got := base.GetAuth() != nil; got != c.auth {
				t.Errorf("credentials were sent: %t", got)
			}
			w.unchanged(before)
			// The second pull finds all there.
			_, err = w.service.PullImage(w.ctx, r)
			check(t, err)
			if len(w.images.pulls) != 3 {
				t.Errorf("pulls %v", w.images.pulls)
			}
			w.unchanged(before)
		})
	}
}

func TestPullOfOtherImages(t *testing.T) {
	w := newWorld(t)
	id := w.checkpointImage(checkpointName, w.files())
	w.withoutBase()
	w.images.add("registry.example/ordinary:1", w.baseID)
	w.images.add(w.baseID, w.baseID)
	before := w.inventory()
	w.node.Policy = policyOf(t, "*")
	for ref, want := range map[string]string{"registry.example/ordinary:1": w.baseID, "registry.example/unknown:1": ""} {
		w.images.pulls = nil
		resp, err := w.service.PullImage(w.ctx, pullRequest(ref))
		check(t, err)
		if resp.GetImageRef() != want || len(w.images.pulls) != 1 {
			t.Errorf("%s: %v, %d pulls", ref, resp, len(w.images.pulls))
		}
	}
	// What may not be restored may be pulled, alone.
	admitted := w.node.Policy
	w.node.Policy = imagesOf(t, "registry.example/other/**")
	w.images.pulls = nil
	resp, err := w.service.PullImage(w.ctx, pullRequest(checkpointName))
	check(t, err)
	if resp.GetImageRef() != id || len(w.images.pulls) != 1 {
		t.Errorf("%v, %d pulls", resp, len(w.images.pulls))
	}
	w.node.Policy = admitted
	broken := fmt.Errorf("broken: %w", errdefs.ErrUnavailable)
	w.images.pull = func(context.Context, *runtime.PullImageRequest) (string, error) { return "", broken }
	if _, err := w.service.PullImage(w.ctx, pullRequest(checkpointName)); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	w.unchanged(before)
}

func TestPullThatCannotGetTheBase(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *world, files map[string]string)
		is     func(error) bool
		says   string
	}{
		"registry has something else": {func(w *world, files map[string]string) {
			files["config.dump"] = strings.ReplaceAll(files["config.dump"], w.base, "sha256:"+strings.Repeat("0", 64))
		}, errdefs.IsFailedPrecondition, baseRepository},
		"only an ID": {func(_ *world, files map[string]string) {
			files["config.dump"] = `{"id":"c1","name":"c","rootfsImageRef":"sha256:` + strings.Repeat("0", 64) + `"}`
		}, errdefs.IsFailedPrecondition, strings.Repeat("0", 64)},
		"malformed": {func(_ *world, files map[string]string) { files["config.dump"] = "{" }, errdefs.IsInvalidArgument,
			"config.dump"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			// As it would come from a registry: made by a tool that looks at nothing.
			w.checkpointImage(checkpointName, w.files())
			files, dir := w.files(), t.TempDir()
			c.change(w, files)
			writeTree(t, dir, files)
			w.sn.mounts = w.bindViews(dir)
			w.withoutBase()
			before := w.inventory()
			_, err := w.service.PullImage(w.ctx, pullRequest(checkpointName))
			wantError(t, err, c.is, checkpointName, "cannot be restored here", c.says)
			w.unchanged(before)
		})
	}
}

// Each call of containerd fails once while the base image is looked for.
func TestPullLeavesNothingWhateverFails(t *testing.T) {
	count := func() []string {
		w := newWorld(t)
		w.checkpointImage(checkpointName, w.files())
		w.withoutBase()
		w.faults.arm(0, nil)
		_, err := w.service.PullImage(w.ctx, pullRequest(checkpointName))
		check(t, err)
		return w.faults.disarm()
	}()
	for i := range 2 * len(count) {
		at, call, panics := i/2, count[i/2], i%2 == 1
		t.Run(fmt.Sprintf("%d %s panics %t", at, call, panics), func(t *testing.T) {
			w := newWorld(t)
			w.checkpointImage(checkpointName, w.files())
			w.withoutBase()
			before := w.inventory()
			w.faults.arm(at+1, func(string) error {
				if panics {
					panic("a mistake")
				}
				return errInjected
			})
			_, err := w.service.PullImage(w.ctx, pullRequest(checkpointName))
			w.faults.disarm()
			if err != nil && !errors.Is(err, errInjected) && !errdefs.IsFailedPrecondition(err) &&
				(!panics || !errdefs.IsInternal(err)) {
				t.Errorf("%v", err)
			}
			after := w.inventory()
			if call == "delete lease" { // it expires
				after = without(after, "lease ")
			}
			if call == "remove snapshot" { // it goes with its lease
				after = without(after, "snapshot View")
			}
			if strings.Join(after, "\n") != strings.Join(before, "\n") {
				t.Errorf("left %q, had %q", after, before)
			}
			_, err = w.service.PullImage(w.ctx, pullRequest(checkpointName))
			check(t, err)
		})
	}
}

// A create whose image is there and whose base is not waits for the base.
func TestCreatePullsTheBase(t *testing.T) {
	w := newWorld(t)
	id := w.checkpointImage(checkpointName, w.files())
	w.withoutBase()
	pulled, release := w.images.pull, make(chan struct{})
	// The first caller gives up, the pull does not.
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	w.images.pull = func(ctx context.Context, r *runtime.PullImageRequest) (string, error) {
		cancel()
		<-release
		return pulled(ctx, r)
	}
	before := w.inventory()
	_, err := w.runtime.CreateContainer(ctx, w.request(id))
	wantError(t, err, func(err error) bool { return errors.Is(err, context.Canceled) }, checkpointName, baseRepository,
		"retry")
	w.unchanged(before)
	close(release)
	resp, err := w.runtime.CreateContainer(w.ctx, w.request(id))
	check(t, err)
	w.ready(resp.ContainerId)
	if len(w.images.pulls) != 1 || w.images.pulls[0].GetAuth() != nil {
		t.Errorf("pulls %v", w.images.pulls)
	}
	// Nothing was named on behalf of the checkpoint.
	all, err := metadata.NewImageStore(w.db).List(w.ctx)
	check(t, err)
	for _, img := range all {
		if strings.HasPrefix(img.Name, baseRepository) && img.Name != baseRepository+":1" {
			t.Errorf("image %s", img.Name)
		}
	}
}

func TestUnpackedIn(t *testing.T) {
	w := newWorld(t)
	id := w.checkpointImage(checkpointName, w.files())
	img, err := w.runtime.detector.Detect(w.ctx, &runtime.ImageSpec{Image: id}, w.runtime.look.pulled)
	check(t, err)
	if got := unpackedIn(w.ctx, w.node.Client, w.node.Snapshotters, img); got != snapshotter {
		t.Errorf("%q", got)
	}
	w.node.Snapshotters = nil
	_, err = w.node.baseOf(w.ctx, img)
	wantError(t, err, errdefs.IsFailedPrecondition, img.Name, "unpacked in no snapshotter")
}

func without(all []string, prefix string) (out []string) {
	for _, s := range all {
		if !strings.HasPrefix(s, prefix) {
			out = append(out, s)
		}
	}
	return out
}

func imagesOf(t *testing.T, patterns ...string) *policy.Policy {
	t.Helper()
	p, err := policy.New(policy.Config{Images: patterns, Namespaces: []string{"*"}})
	check(t, err)
	return p
}

func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		check(t, errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)))
	}
}
