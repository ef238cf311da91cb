package image

import (
	"context"
	"encoding/json"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// environment returns the environment that the base image sets, if it is in the store, as on the node on which the
// container ran; else none. It is what a restored container gets of it, too. What a pod has added is not in it.
func environment(ctx context.Context, store content.Provider, base checkpoint.BaseImage,
	platform ocispec.Platform) []string {
	ref, err := parseBase(base)
	if err != nil {
		return nil
	}
	store = bounded{store}
	config := ref.digest
	if !ref.bareID {
		id, err := configDigest(ctx, store, platforms.Only(platform), ref.digest)
		if err != nil {
			return nil
		}
		config = digest.Digest(id)
	}
	blob, err := content.ReadBlob(ctx, store, ocispec.Descriptor{Digest: config, Size: -1})
	if err != nil {
		return nil
	}
	var img ocispec.Image
	if err := json.Unmarshal(blob, &img); err != nil {
		return nil
	}
	return img.Config.Env
}
