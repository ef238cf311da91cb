package cri

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/pkg/tracing"
	"github.com/containerd/log"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/image"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// PullImage pulls an image, and with a checkpoint image also its base image:
// the kubelet gives a pull as long as it takes, and the creation of a container
// two minutes.
func (s *Images) PullImage(ctx context.Context, r *runtime.PullImageRequest) (_ *runtime.PullImageResponse,
	retErr error) {
	defer recovery.Into(ctx, &retErr, "PullImage")
	resp, err := s.ImageServiceServer.PullImage(ctx, r)
	if err != nil {
		return nil, err
	}
	// By the reference that was pulled: another one of the same image is not meant.
	img, err := s.detector.Detect(ctx, &runtime.ImageSpec{Image: resp.GetImageRef(),
		UserSpecifiedImage: r.GetImage().GetImage()}, s.look.pulled)
	if err != nil && ctx.Err() == nil {
		// The pull itself was well. A container of it will say the same if it matters.
		log.G(ctx).WithError(err).Warn("cannot tell whether a pulled image is a checkpoint")
		return resp, nil
	}
	if err != nil {
		return nil, err
	}
	if img == nil {
		return resp, nil
	}
	// What this node does not restore may still be pulled.
	if allowed := s.node.Policy.Image(img.Name, append(img.References, img.ID)...) == nil; !allowed {
		return resp, nil
	}
	if s.node.NeverPull {
		return resp, nil
	}
	if err := s.pullBase(ctx, r, img); err != nil {
		return nil, fmt.Errorf("checkpoint image %s was pulled, but it cannot be restored here: %w", r.GetImage().GetImage(),
			err)
	}
	return resp, nil
}

func (s *Images) pullBase(ctx context.Context, r *runtime.PullImageRequest, img *image.Image) (retErr error) {
	ctx, span := tracing.StartSpan(ctx, "cri.restore.pull", tracing.WithAttribute("checkpoint", r.GetImage().GetImage()))
	defer func() { span.SetStatus(retErr); span.End() }()
	base, err := s.node.baseOf(ctx, img)
	if err != nil {
		return err
	}
	_, err = s.bases.Ensure(ctx, image.Request{
		Base:           *base,
		Auth:           image.Credentials(r.GetAuth(), r.GetImage().GetImage(), *base),
		SandboxConfig:  r.GetSandboxConfig(),
		RuntimeHandler: r.GetImage().GetRuntimeHandler(),
	})
	return err
}

// baseOf reads the base image from a checkpoint image by way of a view that
// is mounted for that time.
func (n *Node) baseOf(ctx context.Context, img *image.Image) (_ *checkpoint.BaseImage, retErr error) {
	snapshotter := unpackedIn(ctx, n.Client, n.Snapshotters, img)
	if snapshotter == "" {
		return nil, unpackedNowhere(img)
	}
	record := &restore.Record{ID: restore.NewID(), Image: img.Name, Snapshotter: snapshotter}
	record.SnapshotKey = restore.SnapshotKey(record.ID)
	leased, release, err := n.lease(ctx, record.ID)
	if err != nil {
		return nil, err
	}
	var undo undoList
	defer func() { undo.run(ctx) }()
	undo.add("release lease", release)
	undo.add("remove directories", func(ctx context.Context) error { return n.Restores.Remove(ctx, record) })
	c, err := n.view(leased, img, record, checkpoint.UnpackMetadata)
	if err != nil {
		return nil, err
	}
	return &c.Metadata.Base, c.Close()
}
