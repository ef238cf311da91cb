package harness

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Request is one request that a registry got from a node. The harness's own
// pushes are not counted.
type Request struct {
	Method string
	Path   string // for instance /v2/busybox/manifests/1
	Status int
}

// Registry is an image registry in this process, plain HTTP on 127.0.0.1. It has
// Busybox and PauseImage from the start.
type Registry struct {
	server *httptest.Server
	t      testing.TB

	mu         sync.Mutex
	user, pass string
	requests   []Request
	held       map[string]chan struct{}
	delays     map[string]time.Duration
}

// NewRegistry starts a registry that ends with the test.
func NewRegistry(t testing.TB) *Registry {
	t.Helper()
	r := &Registry{t: t, held: map[string]chan struct{}{}, delays: map[string]time.Duration{}}
	r.server = httptest.NewServer(r.middleware(registry.New(registry.Logger(log.New(io.Discard, "", 0)))))
	t.Cleanup(func() {
		r.ReleaseAll()
		r.server.CloseClientConnections()
		r.server.Close()
	})
	images, err := testImages()
	if err != nil {
		t.Fatalf("harness: build the test images: %v", err)
	}
	for image, img := range images {
		r.Push(image, img)
	}
	return r
}

// Host is the registry's host:port.
func (r *Registry) Host() string { return strings.TrimPrefix(r.server.URL, "http://") }

// Ref returns the full reference of a repository, with tag or digest, of this registry.
func (r *Registry) Ref(repository string) string { return r.Host() + "/" + repository }

// Push stores an image under a repository and tag ("app:1") and returns its full
// reference by digest.
func (r *Registry) Push(repository string, img v1.Image) string {
	r.t.Helper()
	digest, err := img.Digest()
	if err != nil {
		r.t.Fatalf("harness: push %s: %v", repository, err)
	}
	return r.push(repository, digest, func(ref name.Reference, opts ...remote.Option) error {
		return remote.Write(ref, img, opts...)
	})
}

// PushIndex is Push for an image index.
func (r *Registry) PushIndex(repository string, idx v1.ImageIndex) string {
	r.t.Helper()
	digest, err := idx.Digest()
	if err != nil {
		r.t.Fatalf("harness: push %s: %v", repository, err)
	}
	return r.push(repository, digest, func(ref name.Reference, opts ...remote.Option) error {
		return remote.WriteIndex(ref, idx, opts...)
	})
}

// PushLayout pushes the only image of an OCI image layout folder, untouched: its
// digest in the registry is that of the layout.
func (r *Registry) PushLayout(repository, dir string) string {
	r.t.Helper()
	idx, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		r.t.Fatalf("harness: %v", err)
	}
	manifest, err := idx.IndexManifest()
	if err != nil {
		r.t.Fatalf("harness: %s: %v", dir, err)
	}
	if len(manifest.Manifests) != 1 {
		r.t.Fatalf("harness: layout %s has %d entries, want 1", dir, len(manifest.Manifests))
	}
	entry := manifest.Manifests[0]
	if entry.MediaType.IsIndex() {
		nested, err := idx.ImageIndex(entry.Digest)
		if err != nil {
			r.t.Fatalf("harness: %s: %v", dir, err)
		}
		return r.PushIndex(repository, nested)
	}
	img, err := idx.Image(entry.Digest)
	if err != nil {
		r.t.Fatalf("harness: %s: %v", dir, err)
	}
	return r.Push(repository, img)
}

func (r *Registry) push(repository string, digest v1.Hash, write func(name.Reference, ...remote.Option) error) string {
	r.t.Helper()
	ref, err := name.ParseReference(r.Ref(repository), name.Insecure)
	if err == nil {
		err = write(ref, remote.WithTransport(marked{http.DefaultTransport}), remote.WithAuth(authn.Anonymous),
			remote.WithContext(r.t.Context()))
	}
	if err != nil {
		r.t.Fatalf("harness: push %s: %v", repository, err)
	}
	return ref.Context().Digest(digest.String()).String()
}

// Disconnect breaks all connections to the registry, which goes on.
func (r *Registry) Disconnect() { r.server.CloseClientConnections() }
