package cri

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/pkg/tracing"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/image"
	"github.com/cri-restore/cri-restore/internal/origin"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// maxReason bounds the reason in the annotation of a container that was started fresh, in bytes.
const maxReason = 512

// unrestorable is the error of a checkpoint that this node cannot restore in this pod, and would not another time, if
// the pod wants its container started all the same. The policy has admitted the checkpoint, and its base image is
// there.
type unrestorable struct {
	error
	record *restore.Record
	base   *image.Base
}

func (u *unrestorable) Unwrap() error { return u.error }

// settled reports whether trying again would end the same way: the checkpoint, the pod or the node
// would have to change. A disk that is full or a request that was cut short is not settled.
func settled(err error) bool {
	return errdefs.IsFailedPrecondition(err) || errdefs.IsPermissionDenied(err) || errdefs.IsInvalidArgument(err) ||
		errdefs.IsResourceExhausted(err) || errdefs.IsNotImplemented(err)
}

// startFresh creates the container from the checkpoint's base image, as if the pod had named that. Nothing of the
// checkpoint is in it, not even the command. It says in its annotations that, and why, it was not restored.
func (s *Runtime) startFresh(ctx context.Context, r *runtime.CreateContainerRequest,
	u *unrestorable) (_ *runtime.CreateContainerResponse, retErr error) {
	ctx, span := tracing.StartSpan(ctx, "cri.restore.fresh", tracing.WithAttribute("checkpoint", u.record.Image))
	defer func() { span.SetStatus(retErr); span.End() }()
	out := proto.Clone(r).(*runtime.CreateContainerRequest)
	img := out.Config.Image
	if img.UserSpecifiedImage == "" {
		img.UserSpecifiedImage = img.Image
	}
	img.Image = u.base.ID
	if out.Config.Annotations == nil {
		out.Config.Annotations = map[string]string{}
	}
	why := shorten(u.Error(), maxReason)
	for key, value := range u.record.Annotations() {
		if key != restore.AnnotationID { // it is no restore
			out.Config.Annotations[key] = value
		}
	}
	out.Config.Annotations[restore.AnnotationFresh] = why
	resp, err := s.RuntimeServiceServer.CreateContainer(origin.With(ctx, u.record.Origin(why)), out)
	if err != nil {
		return nil, fmt.Errorf("start container from base image %s, because %w: %w", u.base.Reference, u.error, err)
	}
	s.node.users.add(resp.GetContainerId())
	countFresh(u.error)
	log.G(ctx).WithError(u.error).WithField("container", resp.GetContainerId()).WithField("checkpoint",
		u.record.Image).WithField("base", u.base.Reference).
		Warn("created container from its base image, as the pod wants it if its checkpoint cannot be restored")
	return resp, nil
}

// failedBefore returns why an earlier container of that name in the pod, of the same checkpoint, was not restored: CRIU
// failed when it was started, or it was started fresh. Nil if there is none, as far as the kubelet has kept them.
func (s *Runtime) failedBefore(ctx context.Context, r *runtime.CreateContainerRequest, record *restore.Record) error {
	list, err := s.ListContainers(ctx,
		&runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{PodSandboxId: r.GetPodSandboxId()}})
	if err != nil {
		return nil //nolint:nilerr // then it is tried
	}
	for _, c := range list.GetContainers() {
		if c.GetMetadata().GetName() != r.GetConfig().GetMetadata().GetName() {
			continue
		}
		if why := s.node.failure(ctx, c.GetId(), record); why != "" {
			return fmt.Errorf("%w: %w", errors.New(why), errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// failure returns why a container of that checkpoint was not restored, nothing if it is another checkpoint's or was.
// Its annotations are not asked: anybody may have written them.
func (n *Node) failure(ctx context.Context, id string, record *restore.Record) string {
	c, earlier, err := n.Restores.Get(ctx, id)
	if err == nil {
		if earlier.Image != record.Image || earlier.ImageDigest != record.ImageDigest {
			return ""
		}
		return earlier.Failure
	}
	if c == nil {
		return ""
	}
	if o := origin.Of(c); o != nil && o.Image == record.Image && o.ImageDigest == record.ImageDigest {
		return o.Fresh
	}
	return ""
}

func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
