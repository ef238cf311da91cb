package image

import (
	"context"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
)

// Adopt makes the active snapshot of that key the unpacked form of the image: the image's one layer was made of
// what is in the snapshot, which must not be mounted any more. It needs a lease in ctx.
func Adopt(ctx context.Context, client *containerd.Client, img images.Image, snapshotter, key string) error {
	handle := containerd.NewImage(client, img)
	diffIDs, err := handle.RootFS(ctx)
	if err != nil {
		return fmt.Errorf("checkpoint image %s: read its config: %w", img.Name, err)
	}
	err = client.SnapshotService(snapshotter).Commit(ctx, identity.ChainID(diffIDs).String(), key)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("checkpoint image %s: commit its snapshot: %w", img.Name, err)
	}
	// Unpacks nothing, as the snapshot is there, but makes the image keep it.
	if err := handle.Unpack(ctx, snapshotter); err != nil {
		return fmt.Errorf("checkpoint image %s: %w", img.Name, err)
	}
	return nil
}
