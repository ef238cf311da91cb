package cri

import (
	"context"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/image"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// Refusing is containerd's CRI runtime service on a node that cannot restore.
// A checkpoint image is refused with the reason instead of being run as an
// ordinary one, and so is the start of a container that was created when the
// node still could.
type Refusing struct {
	runtime.RuntimeServiceServer
	containers containers.Store
	look       looker
	detector   *image.Detector
	reason     error
}

// Refuse decorates the runtime service of a node that cannot restore. snapshotters are those of the node.
func Refuse(c *containerd.Client, snapshotters []string, r runtime.RuntimeServiceServer, i runtime.ImageServiceServer,
	reason error) *Refusing {
	return &Refusing{
		RuntimeServiceServer: r,
		containers:           c.ContainerService(),
		look:                 looker{client: c, snapshotters: snapshotters},
		detector:             image.NewDetector(i, c.ImageService(), c.ContentStore()),
		reason:               reason,
	}
}

// CreateContainer refuses checkpoint images and leaves the rest to containerd.
func (s *Refusing) CreateContainer(ctx context.Context,
	r *runtime.CreateContainerRequest) (_ *runtime.CreateContainerResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "CreateContainer")
	ref := r.GetConfig().GetImage().GetImage()
	img, err := s.detector.Detect(ctx, r.GetConfig().GetImage(), s.look.inPod(s.RuntimeServiceServer, r.GetPodSandboxId()))
	if err != nil {
		return nil, err
	}
	if img != nil || policy.IsArchive(ref) {
		return nil, cannotRestore(ctx, ref, s.reason)
	}
	return s.RuntimeServiceServer.CreateContainer(ctx, r)
}

// StartContainer refuses containers that are still to be restored, which would
// otherwise start from their base image, and leaves the rest to containerd.
func (s *Refusing) StartContainer(ctx context.Context,
	r *runtime.StartContainerRequest) (_ *runtime.StartContainerResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "StartContainer")
	if id := pending(ctx, s.RuntimeServiceServer, s.containers, r.GetContainerId()); id != "" {
		return nil, cannotGoOn(ctx, id, s.reason)
	}
	return s.RuntimeServiceServer.StartContainer(ctx, r)
}

// pending returns the ID of a container that is still to be restored, nothing for any other. The ID that is given may
// be a prefix, as crictl sends it. What is not found is for containerd to say.
func pending(ctx context.Context, s runtime.RuntimeServiceServer, store containers.Store, id string) string {
	resp, err := s.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return ""
	}
	c, err := store.Get(ctx, resp.GetStatus().GetId())
	if err != nil || !restore.Pending(&c) {
		return ""
	}
	return c.ID
}

// cannotRestore says that this node cannot restore an image. The reason's own class would be misleading: an absent CRIU
// is no absent image.
func cannotRestore(ctx context.Context, ref string, reason error) error {
	if ctx.Err() != nil { // nothing was found out
		return fmt.Errorf("image %q: %w", ref, context.Cause(ctx))
	}
	return fmt.Errorf("image %q is a checkpoint, which this node cannot restore: %s: %w", ref, reason.Error(),
		errdefs.ErrFailedPrecondition)
}

// cannotGoOn is cannotRestore for a container that was created before.
func cannotGoOn(ctx context.Context, id string, reason error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("container %s: %w", id, context.Cause(ctx))
	}
	return fmt.Errorf("container %s is to go on from a checkpoint, which this node cannot restore: %s: %w", id,
		reason.Error(), errdefs.ErrFailedPrecondition)
}
