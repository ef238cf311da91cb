package cri

import (
	"context"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/tracing"
	"github.com/containerd/errdefs"
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
func (s *Images) PullImage(ctx context.Context, r *runtime.PullImageRequest) (_ *runtime.PullImageResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "PullImage")
	resp, err := s.ImageServiceServer.PullImage(ctx, r)
	if err != nil {
		return nil, err
	}
	img, err := s.detector.Detect(ctx, resp.GetImageRef())
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
		return nil, fmt.Errorf("checkpoint image %s was pulled, but it cannot be restored here: %w", r.GetImage().GetImage(), err)
	}
	return resp, nil
}

func (s *Images) pullBase(ctx context.Context, r *runtime.PullImageRequest, img *image.Image) (retErr error) {
	ctx, span := tracing.StartSpan(ctx, "cri.restore.pull", tracing.WithAttribute("checkpoint", r.GetImage().GetImage()))
	defer func() { span.SetStatus(retErr); span.End() }()
	base, err := s.node.baseOf(ctx, img)
	if err != nil || base == nil {
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
// is mounted for that time. It returns nil if the image holds no checkpoint.
func (n *Node) baseOf(ctx context.Context, img *image.Image) (_ *checkpoint.BaseImage, retErr error) {
	snapshotter, err := n.unpackedIn(ctx, img)
	if err != nil {
		return nil, err
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
	if err != nil || c == nil {
		return nil, err
	}
	return &c.Metadata.Base, c.Close()
}

// unpackedIn returns the snapshotter that a pull has unpacked the image in.
func (n *Node) unpackedIn(ctx context.Context, img *image.Image) (string, error) {
	i := containerd.NewImage(n.Client, images.Image{Name: img.Name, Target: img.Target})
	for _, name := range n.Snapshotters {
		ok, err := i.IsUnpacked(ctx, name)
		if err != nil {
			log.G(ctx).WithError(err).WithField("snapshotter", name).Debug("cannot look for checkpoint image")
			continue
		}
		if ok {
			return name, nil
		}
	}
	return "", fmt.Errorf("image %s is unpacked in no snapshotter: %w", img.Name, errdefs.ErrFailedPrecondition)
}
