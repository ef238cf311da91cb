package image

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The environment is that of the base image, if the store has it, whatever the process had.
func TestBuildEnvironment(t *testing.T) {
	env := []string{"PATH=/bin", "BASE=1"}
	w := newWorld(t)
	base := w.document(ocispec.MediaTypeImageConfig,
		ocispec.Image{Platform: platforms.DefaultSpec(), Config: ocispec.ImageConfig{Env: env},
			RootFS: ocispec.RootFS{Type: "layers"}})
	manifest := w.document(ocispec.MediaTypeImageManifest,
		ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: base})
	manifest.Platform = &ocispec.Platform{OS: "linux", Architecture: platforms.DefaultSpec().Architecture}
	foreign, _ := w.manifest(map[string]string{"a": "b"}, nil)
	foreign.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	index := w.index(nil, foreign, manifest)
	text := w.blob("text/plain", []byte("no image"))
	for reference, want := range map[string][]string{
		"registry.example/base@" + manifest.Digest.String(): env,
		"registry.example/base@" + index.Digest.String():    env,
		base.Digest.String():                                env,
		"registry.example/base@" + baseDigest:               nil, // not here
		baseDigest:                                          nil,
		"registry.example/base@" + text.Digest.String():     nil,
		text.Digest.String():                                nil,
	} {
		f := files()
		f["config.dump"] = strings.Replace(f["config.dump"], "registry.example/base@"+baseDigest, reference, 1)
		f["spec.dump"] = strings.Replace(f["spec.dump"], `{"process":{`, `{"process":{"env":["SECRET=x"],`, 1)
		desc, err := Build(w.ctx, w.db.ContentStore(), pack(t, f), BuildOptions{})
		check(t, err)
		got, err := images.Manifest(w.ctx, w.db.ContentStore(), desc, platforms.Default())
		check(t, err)
		blob, err := content.ReadBlob(w.ctx, w.db.ContentStore(), got.Config)
		check(t, err)
		var config ocispec.Image
		check(t, json.Unmarshal(blob, &config))
		if !slices.Equal(config.Config.Env, want) {
			t.Errorf("%s: environment %q", reference, config.Config.Env)
		}
	}
}
