package image

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// tagRegistry is a registry that remembers what it was asked for, and by whom.
type tagRegistry struct {
	t    *testing.T
	host string
	mu   sync.Mutex
	asks []string
	user string // who may ask, "" for anybody
}

func newTagRegistry(t *testing.T) *tagRegistry {
	t.Helper()
	r := &tagRegistry{t: t}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		user, _, _ := req.BasicAuth()
		r.mu.Lock()
		r.asks = append(r.asks, req.Method+" "+req.URL.Path)
		allowed := r.user == "" || user == r.user
		r.mu.Unlock()
		if !allowed {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	r.host = strings.TrimPrefix(server.URL, "http://")
	return r
}

func (r *tagRegistry) ref(repository string) name.Reference {
	ref, err := name.ParseReference(r.host+"/"+repository, name.Insecure)
	check(r.t, err)
	return ref
}

func (r *tagRegistry) push(repository string, img v1.Image) {
	check(r.t, remote.Write(r.ref(repository), img, remote.WithAuth(authn.FromConfig(authn.AuthConfig{Username: "me",
		Password: "x"}))))
	r.forget()
}

func (r *tagRegistry) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asks = nil
}

func (r *tagRegistry) asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asks)
}

// linuxImage is an image for this platform.
func linuxImage(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(10, 1)
	check(t, err)
	config, err := img.ConfigFile()
	check(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	img, err = mutate.ConfigFile(img, config)
	check(t, err)
	return img
}

func digestsOf(t *testing.T, img v1.Image) (manifest, id string) {
	t.Helper()
	d, err := img.Digest()
	check(t, err)
	c, err := img.ConfigName()
	check(t, err)
	return d.String(), c.String()
}

// TestEnsureByName has a checkpoint say an ID and a name, as Podman's does.
func TestEnsureByName(t *testing.T) {
	img, other := linuxImage(t), linuxImage(t)
	manifest, id := digestsOf(t, img)
	for what, c := range map[string]struct {
		push  func(*tagRegistry)
		user  string
		auth  *runtime.AuthConfig
		set   func(*Bases)
		is    func(error) bool // nil: it is pulled
		says  string
		quiet bool // the registry must not hear of it
	}{
		"tag": {push: func(r *tagRegistry) { r.push("a/base:1", img) }},
		"index": {push: func(r *tagRegistry) {
			idx := mutate.AppendManifests(empty.Index,
				mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux",
					Architecture: "s390x"}}},
				mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux",
					Architecture: "amd64"}}})
			check(r.t, remote.WriteIndex(r.ref("a/base:1"), idx))
			r.forget()
		}},
		"urls": {push: func(r *tagRegistry) {
			idx := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
				Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}, URLs: []string{"http://" + r.host + "/elsewhere"}}})
			check(r.t, remote.WriteIndex(r.ref("a/base:1"), idx))
			r.forget()
		}},
		"credentials": {push: func(r *tagRegistry) { r.user = "me"; r.push("a/base:1", img) },
			auth: &runtime.AuthConfig{Username: "me", Password: "x"}},
		"no credentials": {push: func(r *tagRegistry) { r.user = "me"; r.push("a/base:1", img) }, is: errdefs.IsUnauthorized,
			says: "no credentials of a pull secret"},
		"moved tag": {push: func(r *tagRegistry) { r.push("a/base:1", other) }, is: errdefs.IsFailedPrecondition,
			says: "is another one now"},
		"no such tag": {push: func(*tagRegistry) {}, is: errdefs.IsNotFound, says: "a/base:1"},
		"never pull": {push: func(r *tagRegistry) { r.push("a/base:1", img) },
			set: func(b *Bases) { b.NeverPull = true }, is: errdefs.IsFailedPrecondition, says: "pull_base_images = false",
			quiet: true},
		"not admitted": {push: func(r *tagRegistry) { r.push("a/base:1", img) }, set: func(b *Bases) {
			b.Admit = func(string, ...string) error { return errdefs.ErrPermissionDenied }
		}, is: errdefs.IsPermissionDenied, quiet: true},
		"registry.mirrors": {push: func(r *tagRegistry) { r.push("a/base:1", img) },
			set: func(b *Bases) { b.HostDirs = func() string { return "" } },
			is:  errdefs.IsFailedPrecondition, says: "only by ID", quiet: true},
		"nobody to ask": {push: func(r *tagRegistry) { r.push("a/base:1", img) }, set: func(b *Bases) { b.HostDirs = nil },
			is: errdefs.IsFailedPrecondition, says: "only by ID", quiet: true},
	} {
		t.Run(what, func(t *testing.T) {
			r := newTagRegistry(t)
			c.push(r)
			w, cri := newWorld(t), &fakeCRI{}
			cri.pull = func(_ context.Context, req *runtime.PullImageRequest) (string, error) {
				raw, err := img.RawManifest()
				check(t, err)
				config, err := img.RawConfigFile()
				check(t, err)
				w.blob("application/vnd.docker.container.image.v1+json", config)
				w.blob("application/vnd.docker.distribution.manifest.v2+json", raw)
				cri.add(id, id)
				cri.add(req.GetImage().GetImage(), id)
				return id, nil
			}
			bases := NewBases(cri, w.reads, time.Minute)
			bases.HostDirs = func() string { return t.TempDir() + ":" + t.TempDir() }
			if c.set != nil {
				c.set(bases)
			}
			base, err := bases.Ensure(w.ctx, Request{Base: checkpoint.BaseImage{Name: r.host + "/a/base:1", Reference: id},
				Auth: c.auth})
			want := r.host + "/a/base@" + manifest
			switch {
			case c.is != nil:
				if !c.is(err) || !strings.Contains(err.Error(), c.says) || len(cri.pulled()) > 0 {
					t.Errorf("got %v, want one that says %q; pulled %v", err, c.says, cri.pulled())
				}
			case err != nil:
				t.Error(err)
			case base.ID != id || base.Reference != want || len(cri.pulled()) != 1 ||
				cri.pulled()[0].GetImage().GetImage() != want:
				t.Errorf("%+v, pulled %v", base, cri.pulled())
			}
			asked := r.asked()
			if c.quiet != (len(asked) == 0) {
				t.Errorf("the registry was asked %q", asked)
			}
			for _, a := range asked {
				if strings.HasSuffix(a, "/elsewhere") {
					t.Errorf("a host was asked that an index named: %q", asked)
				}
				if strings.Contains(a, "/blobs/") && !strings.HasSuffix(a, id) {
					t.Errorf("the registry was asked for more than documents: %q", asked)
				}
			}
		})
	}
}

func TestCredentialsFor(t *testing.T) {
	for name, c := range map[string]struct {
		auth         *runtime.AuthConfig
		user, secret string
		is           func(error) bool
	}{
		"none":         {nil, "", "", nil},
		"password":     {&runtime.AuthConfig{Username: "me", Password: "x", IdentityToken: "no"}, "me", "x", nil},
		"token":        {&runtime.AuthConfig{IdentityToken: "token"}, "", "token", nil},
		"encoded":      {&runtime.AuthConfig{Auth: "bWU6eA=="}, "me", "x", nil},
		"this host":    {&runtime.AuthConfig{Username: "me", ServerAddress: "https://registry.example:5000"}, "me", "", nil},
		"another host": {&runtime.AuthConfig{Username: "me", ServerAddress: "https://registry.example"}, "", "", nil},
		"nonsense":     {&runtime.AuthConfig{Auth: "?"}, "", "", errdefs.IsInvalidArgument},
	} {
		user, secret, err := credentials(c.auth, "registry.example:5000")
		if user != c.user || secret != c.secret || (err != nil) != (c.is != nil) || c.is != nil && !c.is(err) {
			t.Errorf("%s: %q, %q, %v", name, user, secret, err)
		}
	}
}
