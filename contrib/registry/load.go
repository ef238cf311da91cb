package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// load pushes the one image, or image index, of an OCI image layout to the registry
// at address. entry is DIR=NAME:TAG. The digest stays that of the layout.
func load(ctx context.Context, address, entry string, auth authn.Authenticator) error {
	// The last "=": a name has none, a folder may.
	cut := strings.LastIndex(entry, "=")
	if cut < 1 {
		return fmt.Errorf("--load %q: want DIR=NAME:TAG", entry)
	}
	dir := entry[:cut]
	ref, err := name.NewTag(address+"/"+entry[cut+1:], name.StrictValidation, name.Insecure)
	if err != nil {
		return fmt.Errorf("--load %q: want DIR=NAME:TAG: %w", entry, err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return fmt.Errorf("--load %q: %s is no OCI image layout: %w", entry, dir, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("--load %q: index of layout %s: %w", entry, dir, err)
	}
	if n := len(manifest.Manifests); n != 1 {
		return fmt.Errorf("--load %q: layout %s has %d images: want one layout per image", entry, dir, n)
	}
	image := manifest.Manifests[0]
	opts := []remote.Option{remote.WithContext(ctx), remote.WithAuth(auth)}
	if image.MediaType.IsIndex() {
		nested, nestedErr := index.ImageIndex(image.Digest)
		if err = nestedErr; err == nil {
			err = remote.WriteIndex(ref, nested, opts...)
		}
	} else {
		single, singleErr := index.Image(image.Digest)
		if err = singleErr; err == nil {
			err = remote.Write(ref, single, opts...)
		}
	}
	if err != nil {
		return fmt.Errorf("--load %q: push %s: %w", entry, image.Digest, err)
	}
	return nil
}
