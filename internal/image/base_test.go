package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/upstream"
)

const repo = "registry.example/team/base"

// pulls makes the fake CRI pull that image, as containerd does: the content
// appears, then the CRI knows it.
func pulls(w *world, cri *fakeCRI) (target ocispec.Descriptor, id string) {
	target, config := w.manifest(map[string]string{"base": "image"}, nil)
	id = config.Digest.String()
	cri.pull = func(_ context.Context, r *runtime.PullImageRequest) (string, error) {
		cri.add(id, id)
		cri.add(r.GetImage().GetImage(), id)
		return id, nil
	}
	return target, id
}

func request(ref string) Request {
	return Request{Base: checkpoint.BaseImage{Name: "base:1", Reference: ref}}
}

func TestEnsurePullsByDigest(t *testing.T) {
	for _, tag := range []string{"", ":1", ":latest"} {
		w, cri := newWorld(t), &fakeCRI{}
		target, id := pulls(w, cri)
		bases := NewBases(cri, w.reads, time.Minute)
		r := request(repo + tag + "@" + target.Digest.String())
		r.RuntimeHandler = "kata"
		r.Auth = &runtime.AuthConfig{Username: "me"}
		for range 2 { // absent, then present
			base, err := bases.Ensure(w.ctx, r)
			check(t, err)
			if want := repo + "@" + target.Digest.String(); base.ID != id || base.Reference != want ||
				base.Digest != target.Digest {
				t.Fatalf("%+v", base)
			}
		}
		got := cri.pulled()
		if len(got) != 1 {
			t.Fatalf("%d pulls", len(got))
		}
		if got[0].Image.Image != repo+"@"+target.Digest.String() || got[0].Image.RuntimeHandler != "kata" ||
			got[0].Auth.GetUsername() != "me" || got[0].SandboxConfig == nil {
			t.Fatalf("pulled %v", got[0])
		}
	}
}

func TestEnsureFindsWhatIsThere(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	manifest, config := w.manifest(map[string]string{"base": "image"}, nil)
	index := w.index(nil, manifest)
	id := w.store(cri, index, "elsewhere.example/mirror:7")
	bases := NewBases(cri, w.reads, time.Minute)
	// By whatever name and by either digest it came to the node.
	for _, ref := range []string{
		repo + "@" + index.Digest.String(), repo + "@" + manifest.Digest.String(),
		id, config.Digest.Encoded(),
	} {
		base, err := bases.Ensure(w.ctx, request(ref))
		check(t, err)
		if base.ID != id {
			t.Fatalf("%s: %+v", ref, base)
		}
	}
	if n := len(cri.pulled()); n != 0 {
		t.Fatalf("%d pulls", n)
	}
}

// A name in the image store is not evidence: anybody may have given it.
func TestEnsureTrustsNoName(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	other, _ := w.manifest(map[string]string{"another": "image"}, nil)
	target, id := pulls(w, cri)
	ref := repo + "@" + target.Digest.String()
	otherID := w.store(cri, other)
	cri.add(ref, otherID)
	_, err := w.images.Create(w.ctx, images.Image{Name: ref, Target: other})
	check(t, err)
	base, err := NewBases(cri, w.reads, time.Minute).Ensure(w.ctx, request(ref))
	check(t, err)
	if base.ID != id || len(cri.pulled()) != 1 {
		t.Fatalf("%+v after %d pulls", base, len(cri.pulled()))
	}
}

func TestEnsureRefuses(t *testing.T) {
	const hex = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for name, c := range map[string]struct {
		ref   string
		class func(error) bool
		words string
	}{
		"nothing":       {"", errdefs.IsFailedPrecondition, "base:1"},
		"tag":           {repo + ":1", errdefs.IsFailedPrecondition, "tag"},
		"name":          {"base", errdefs.IsFailedPrecondition, "digest"},
		"no reference":  {"../../etc/passwd", errdefs.IsInvalidArgument, "etc/passwd"},
		"bad digest":    {repo + "@sha256:abc", errdefs.IsInvalidArgument, repo},
		"absent ID":     {"sha256:" + hex, errdefs.IsFailedPrecondition, `pull "base:1"`},
		"absent hex ID": {hex, errdefs.IsFailedPrecondition, "sha256:" + hex},
		"prefix of ID":  {"sha256:" + hex[:12], errdefs.IsFailedPrecondition, "digest"},
	} {
		t.Run(name, func(t *testing.T) {
			w, cri := newWorld(t), &fakeCRI{}
			cri.add("sha256:"+hex[:12], "sha256:"+hex) // as containerd, which resolves prefixes
			cri.add("sha256:"+hex, "sha256:another")
			_, err := NewBases(cri, w.reads, time.Minute).Ensure(w.ctx, request(c.ref))
			if !c.class(err) || !strings.Contains(fmt.Sprint(err), c.words) {
				t.Fatalf("%v", err)
			}
			if n := len(cri.pulled()); n != 0 {
				t.Fatalf("%d pulls", n)
			}
		})
	}
}

func TestEnsureDigestMismatch(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	target, id := pulls(w, cri)
	cri.pull = func(context.Context, *runtime.PullImageRequest) (string, error) {
		cri.add(id, id)
		return "sha256:other", nil
	}
	ref := repo + "@" + target.Digest.String()
	_, err := NewBases(cri, w.reads, time.Minute).Ensure(w.ctx, request(ref))
	for _, want := range []string{ref, id, "sha256:other"} {
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
			t.Fatalf("%v: want %s", err, want)
		}
	}
	// Nothing of that digest has come at all.
	absent := strings.Replace(ref, target.Digest.Encoded()[:8], "00000000", 1)
	if _, err = NewBases(cri, w.reads, time.Minute).Ensure(w.ctx, request(absent)); !errdefs.IsFailedPrecondition(err) ||
		errdefs.IsNotFound(err) {
		t.Fatalf("%v", err)
	}
}

// One pull for all who wait, which goes on when the first of them gives up.
func TestEnsureJoins(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	target, id := pulls(w, cri)
	land, started, release := cri.pull, make(chan context.Context, 9), make(chan struct{})
	cri.pull = func(ctx context.Context, r *runtime.PullImageRequest) (string, error) {
		started <- ctx
		select {
		case <-release:
			return land(ctx, r)
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	bases := NewBases(cri, w.reads, time.Minute)
	r := request(repo + "@" + target.Digest.String())

	first, cancel := context.WithTimeout(leases.WithLease(w.ctx, "the caller's"), 20*time.Millisecond)
	defer cancel()
	_, err := bases.Ensure(first, r)
	if !errdefs.IsDeadlineExceeded(err) || !strings.Contains(err.Error(), "the pull goes on") {
		t.Fatalf("first: %v", err)
	}
	pulling := <-started
	if ns, _ := namespaces.Namespace(pulling); ns != upstream.Namespace || pulling.Err() != nil {
		t.Fatalf("the pull runs in namespace %q, ended: %v", ns, pulling.Err())
	}
	if id, ok := leases.FromContext(pulling); ok {
		t.Fatalf("the pull belongs to lease %q of a caller who is gone", id)
	}
	if _, ok := pulling.Deadline(); !ok {
		t.Fatal("the pull has no deadline")
	}
	second, cancel := context.WithCancel(w.ctx)
	cancel()
	if _, err := bases.Ensure(second, r); !errdefs.IsCanceled(err) {
		t.Fatalf("second: %v", err)
	}

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			base, err := bases.Ensure(w.ctx, r)
			if err != nil || base.ID != id {
				t.Errorf("%+v, %v", base, err)
			}
		})
	}
	close(release)
	wg.Wait()
	if n := len(cri.pulled()); n != 1 {
		t.Fatalf("%d pulls", n)
	}
}

// A pull that ended between the look and the next pull is not repeated.
func TestPullLooksAgain(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	target, _ := w.manifest(nil, nil)
	id := w.store(cri, target)
	ref, err := parseBase(checkpoint.BaseImage{Reference: repo + "@" + target.Digest.String()})
	check(t, err)
	got, err := NewBases(cri, w.reads, time.Minute).pull(w.ctx, ref, Request{})
	if err != nil || got != id || len(cri.pulled()) != 0 {
		t.Fatalf("%s, %v, %d pulls", got, err, len(cri.pulled()))
	}
}

// Nobody gets an image by another's credentials, or unpacked for another handler.
func TestEnsureJoinsOnlyEquals(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	target, _ := pulls(w, cri)
	land, both := cri.pull, new(sync.WaitGroup)
	r := request(repo + "@" + target.Digest.String())
	requests := []Request{r, r, r, r, r, r}
	requests[1].Auth = &runtime.AuthConfig{}
	requests[2].Auth = &runtime.AuthConfig{Username: "me", Password: "secret"}
	requests[3].Auth = &runtime.AuthConfig{Username: "me", Password: "other"}
	requests[4].RuntimeHandler = "kata"
	requests[5].SandboxConfig = &runtime.PodSandboxConfig{
		Annotations: map[string]string{upstream.AnnotationRuntimeHandler: "kata"}}
	both.Add(len(requests))
	cri.pull = func(ctx context.Context, r *runtime.PullImageRequest) (string, error) {
		both.Done()
		both.Wait() // hangs unless each pulls
		return land(ctx, r)
	}
	bases := NewBases(cri, w.reads, time.Minute)
	var wg sync.WaitGroup
	for _, r := range requests {
		wg.Go(func() {
			if _, err := bases.Ensure(w.ctx, r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, a := range requests {
		for j, b := range requests {
			if i != j && pullKey(baseReference{}, a) == pullKey(baseReference{}, b) {
				t.Errorf("%d and %d share a pull", i, j)
			}
		}
	}
	copied := requests[2]
	copied.Auth = &runtime.AuthConfig{Username: "me", Password: "secret"}
	if pullKey(baseReference{}, copied) != pullKey(baseReference{}, requests[2]) {
		t.Error("equal credentials do not share a pull")
	}
}

func TestEnsureTimeout(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	target, _ := pulls(w, cri)
	cri.pull = func(ctx context.Context, _ *runtime.PullImageRequest) (string, error) {
		<-ctx.Done()
		return "", fmt.Errorf("failed to pull: %w", ctx.Err())
	}
	_, err := NewBases(cri, w.reads, 10*time.Millisecond).Ensure(w.ctx, request(repo+"@"+target.Digest.String()))
	if !errdefs.IsDeadlineExceeded(err) || errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "10ms") {
		t.Fatalf("%v", err)
	}
}

// Out of a panic singleflight would make one that ends the process.
func TestEnsureSurvivesAPanic(t *testing.T) {
	w, cri := newWorld(t), &fakeCRI{}
	target, _ := pulls(w, cri)
	working := cri.pull
	cri.pull = func(context.Context, *runtime.PullImageRequest) (string, error) { panic("a mistake") }
	bases := NewBases(cri, w.reads, time.Minute)
	if _, err := bases.Ensure(w.ctx, request(repo+"@"+target.Digest.String())); !errdefs.IsInternal(err) {
		t.Errorf("got %v", err)
	}
	cri.pull = working
	_, err := bases.Ensure(w.ctx, request(repo+"@"+target.Digest.String()))
	check(t, err)
}

func TestEnsurePullErrors(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		class  func(error) bool
		remedy string
	}{
		"401": {fmt.Errorf("pull access denied: %w", docker.ErrInvalidAuthorization), errdefs.IsUnauthorized,
			"pull secret"},
		"403": {remoteerrors.ErrUnexpectedStatus{StatusCode: http.StatusForbidden}, errdefs.IsUnauthorized,
			"pull secret"},
		"denied":      {fmt.Errorf("x: %w", errdefs.ErrPermissionDenied), errdefs.IsPermissionDenied, "pull secret"},
		"absent":      {fmt.Errorf("x: %w", errdefs.ErrNotFound), errdefs.IsNotFound, "push it"},
		"unreachable": {errors.New("dial tcp: no route to host"), errdefs.IsUnavailable, "reaches the registry"},
		"disk full":   {fmt.Errorf("x: %w", errdefs.ErrResourceExhausted), errdefs.IsResourceExhausted, repo},
	} {
		t.Run(name, func(t *testing.T) {
			w, cri := newWorld(t), &fakeCRI{}
			target, _ := pulls(w, cri)
			working := cri.pull
			cri.pull = func(context.Context, *runtime.PullImageRequest) (string, error) {
				return "", fmt.Errorf(`Get "https://cdn.example/blob?sig=SECRET&x=1": %w`, c.err)
			}
			bases := NewBases(cri, w.reads, time.Minute)
			r := request(repo + "@" + target.Digest.String())
			_, err := bases.Ensure(w.ctx, r)
			if !c.class(err) || !strings.Contains(err.Error(), c.remedy) || !strings.Contains(err.Error(), r.Base.Reference) {
				t.Fatalf("%v", err)
			}
			if strings.Contains(err.Error(), "SECRET") {
				t.Fatalf("shows a token: %v", err)
			}
			// A failure is not remembered.
			cri.pull = working
			if _, err := bases.Ensure(w.ctx, r); err != nil {
				t.Fatal(err)
			}
		})
	}
}
