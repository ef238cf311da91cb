package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// BuildOptions say how a checkpoint image is made.
type BuildOptions struct {
	// Compression of the layer. The zero value is [Zstd].
	Compression Compression
	// Platform on which the process ran. The zero value is this machine's.
	Platform ocispec.Platform
	// Limits bound the archive. The zero value is [checkpoint.DefaultLimits].
	Limits checkpoint.Limits
	// TempDir is where the archive is unpacked meanwhile, in a private directory.
	// It needs the space of the unpacked archive. Empty: beside what is made if
	// that is a file or directory, else [os.TempDir].
	TempDir string
}

// Build makes a checkpoint image in the store from an archive that containerd,
// CRI-O or Podman wrote, a regular file and no link, and returns the descriptor
// of its manifest. The same archive and options make the same image in stores that have its base
// image, and in those that have not.
//
// What is made refers to each other by containerd's gc labels, but nothing refers
// to the manifest yet: a store with garbage collection needs a lease in ctx.
// On error nothing refers to what was written before.
// Errors: those of [checkpoint.Unpack] and [checkpoint.Open]; the store's.
func Build(ctx context.Context, store content.Store, archive string, o BuildOptions) (_ ocispec.Descriptor, err error) {
	if o.Limits == (checkpoint.Limits{}) {
		o.Limits = checkpoint.DefaultLimits()
	}
	if archive, err = filepath.Abs(archive); err != nil {
		return ocispec.Descriptor{}, err
	}
	// The archive is unpacked before the layer is written, so that one that is
	// refused leaves nothing, and so that there is one place that knows what to refuse.
	dir, err := os.MkdirTemp(o.TempDir, "checkpoint-image-")
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("unpack checkpoint archive: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if dir, err = filepath.Abs(dir); err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := checkpoint.Unpack(ctx, archive, dir, o.Limits); err != nil {
		return ocispec.Descriptor{}, err
	}
	c, err := checkpoint.Open(dir, o.Limits)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("checkpoint archive %s: %w", archive, err)
	}
	defer c.Close()
	return BuildCheckpoint(ctx, store, c, o)
}

// BuildCheckpoint is [Build] for an open checkpoint. All of its directory
// becomes the layer.
func BuildCheckpoint(ctx context.Context, store content.Store, c *checkpoint.Checkpoint,
	o BuildOptions) (ocispec.Descriptor, error) {
	if o.Platform.OS == "" {
		o.Platform = platforms.DefaultSpec()
	}
	layer, diffID, err := writeLayer(ctx, store, c, o.Compression)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("checkpoint image: write layer: %w", err)
	}
	config, err := writeDocumentBlob(ctx, store, ocispec.MediaTypeImageConfig,
		imageConfig(&c.Metadata, o.Platform, environment(ctx, store, c.Metadata.Base, o.Platform), diffID), nil)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("checkpoint image: write config: %w", err)
	}
	manifest := ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Config:      config,
		Layers:      []ocispec.Descriptor{layer},
		Annotations: annotationsOf(&c.Metadata, o.Platform),
	}
	desc, err := writeDocumentBlob(ctx, store, ocispec.MediaTypeImageManifest, manifest, map[string]string{
		images.ChildGCLabels(config)[0]:      config.Digest.String(),
		images.ChildGCLabels(layer)[0] + "0": layer.Digest.String(),
	})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("checkpoint image: write manifest: %w", err)
	}
	return desc, nil
}

// imageConfig says of the process only who it ran as: the kubelet checks runAsNonRoot by the image, and takes the user
// from it if the pod names none. The environment is the base image's, if it is known, and not the process's: what a pod
// had given it would bring its secrets where people look. Command and working directory are the base image's and the
// pod's to say.
//
// The labels are the manifest's annotations: some tools, and Docker's own format, keep labels only.
func imageConfig(m *checkpoint.Metadata, platform ocispec.Platform, env []string, diffID digest.Digest) ocispec.Image {
	var created *time.Time
	if !m.CheckpointedAt.IsZero() {
		at := m.CheckpointedAt.UTC()
		created = &at
	}
	user := m.Spec.Process.User
	return ocispec.Image{
		Created:  created,
		Platform: platform,
		Config: ocispec.ImageConfig{User: fmt.Sprintf("%d:%d", user.UID, user.GID), Env: env,
			Labels: annotationsOf(m, platform)},
		RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		History: []ocispec.History{{Created: created, CreatedBy: "checkpoint-image"}},
	}
}

func writeDocumentBlob(ctx context.Context, store content.Store, mediaType string, v any,
	labels map[string]string) (ocispec.Descriptor, error) {
	blob, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	err = content.WriteBlob(ctx, store, "checkpoint-image-"+desc.Digest.String(), bytes.NewReader(blob), desc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return desc, label(ctx, store, desc.Digest, labels)
}

// label sets the labels on a blob. Its commit would not: the blob may have been
// there before, without them. A store without labels, as that of a layout, collects no garbage either.
func label(ctx context.Context, store content.Store, dgst digest.Digest, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	fields := make([]string, 0, len(labels))
	for key := range labels {
		fields = append(fields, "labels."+key)
	}
	_, err := store.Update(ctx, content.Info{Digest: dgst, Labels: labels}, fields...)
	if errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return err
}
