package image

import (
	"context"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
)

// View prepares a read-only snapshot of the unpacked image in the given
// snapshotter under the given key and returns its mounts: the checkpoint is read
// where it is, not copied. An image that this snapshotter has not got yet (it
// was imported, or pulled for a handler with another snapshotter) is unpacked first.
//
// The snapshot belongs to the lease of ctx and carries the labels, of which one
// must keep it from garbage collection if it is to outlive the lease.
// Errors: errdefs.ErrAlreadyExists if the key is taken, errdefs.ErrNotFound if the
// image is gone, in part or whole.
func View(ctx context.Context, client *containerd.Client, img *Image, snapshotter, key string,
	labels map[string]string) ([]mount.Mount, error) {
	image := containerd.NewImage(client, images.Image{Name: img.Name, Target: img.Target})
	diffIDs, err := image.RootFS(ctx)
	if err != nil {
		return nil, fmt.Errorf("checkpoint image %s: read its config: %w", img.Name, err)
	}
	var (
		parent = identity.ChainID(diffIDs).String()
		sn     = client.SnapshotService(snapshotter)
	)
	mounts, err := sn.View(ctx, key, parent, snapshots.WithLabels(labels))
	if errdefs.IsNotFound(err) {
		if err := image.Unpack(ctx, snapshotter); err != nil {
			return nil, fmt.Errorf("checkpoint image %s: unpack in snapshotter %s: %w", img.Name, snapshotter, err)
		}
		mounts, err = sn.View(ctx, key, parent, snapshots.WithLabels(labels))
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoint image %s: view %s in snapshotter %s: %w", img.Name, key, snapshotter, err)
	}
	return mounts, nil
}
