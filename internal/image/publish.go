package image

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/upstream"
)

// criTimeout bounds the wait for the CRI to take up a new image.
const criTimeout = 10 * time.Second

// Publish makes a checkpoint image from an archive in a running containerd, in
// the namespace of ctx: content, unpacked snapshot (snapshotter empty: the
// default one) and, when these are complete, the image under the given name,
// which must be normalised. In the CRI's namespace it returns when the CRI has
// the image, so that a pod may use it at once.
func Publish(ctx context.Context, client *containerd.Client, snapshotter, name, archivePath string,
	o BuildOptions) (_ ocispec.Descriptor, err error) {
	ctx, done, err := client.WithLease(ctx)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("containerd: create lease: %w", err)
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }() // it expires otherwise

	desc, err := Build(ctx, client.ContentStore(), archivePath, o)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	img := images.Image{Name: name, Target: desc}
	if err := containerd.NewImage(client, img).Unpack(ctx, snapshotter); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("unpack checkpoint image: %w", err)
	}
	if err := put(ctx, client.ImageService(), img); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("store checkpoint image %s: %w", name, err)
	}
	if ns, _ := namespaces.Namespace(ctx); ns == upstream.Namespace {
		if conn, ok := client.Conn().(*grpc.ClientConn); ok && conn != nil { // nil in one process
			cri := runtime.NewImageServiceClient(conn)
			err = Await(ctx, client.ContentStore(), func(ctx context.Context,
				r *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error) {
				return cri.ImageStatus(ctx, r)
			}, img)
		}
	}
	return desc, err
}

// put creates the entry or replaces it whole. The CRI keeps a label on entries
// that it knows, and makes one named by the image ID only for entries without:
// one that changes its target must lose the label.
func put(ctx context.Context, store images.Store, img images.Image) error {
	old, err := store.Get(ctx, img.Name)
	switch {
	case errdefs.IsNotFound(err):
		_, err = store.Create(ctx, img)
	case err == nil && old.Target.Digest != img.Target.Digest:
		_, err = store.Update(ctx, img)
	}
	return err
}

// Await returns when the image's name means the image to the CRI. The CRI hears
// of new images by events and reports nothing when it is done with one, so it has
// to be asked again. status is the CRI's ImageStatus, with gRPC's errors.
func Await(ctx context.Context, provider content.Provider,
	status func(context.Context, *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error), img images.Image,
) error {
	config, err := images.Config(ctx, provider, img.Target, nil)
	if err != nil {
		return fmt.Errorf("image %s: %w", img.Name, err)
	}
	_, err = backoff.Retry(ctx, func() (struct{}, error) {
		resp, err := status(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: img.Name}})
		switch err = errgrpc.ToNative(err); {
		case errdefs.IsNotImplemented(err):
			return struct{}{}, nil // containerd without the CRI plugin
		case err == nil && resp.GetImage().GetId() != config.Digest.String():
			err = fmt.Errorf("image %s: %w", config.Digest, errdefs.ErrNotFound)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 5 * time.Millisecond, Multiplier: 2, MaxInterval: time.Second,
	}), backoff.WithMaxElapsedTime(criTimeout))
	if err != nil {
		return fmt.Errorf("image %s is in containerd, but its CRI did not take it up within %s, see containerd's log: %w",
			img.Name, criTimeout, err)
	}
	return nil
}
