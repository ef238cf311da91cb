package cri

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/upstream"
	"github.com/cri-restore/cri-restore/internal/verify"
)

// lazily decides whether a restore is to be lazy, by what was asked for and how much memory there is. It reads nothing
// of the images, which nobody has verified yet.
func (n *Node) lazily(ctx context.Context, asked policy.Lazy, dir string) (bool, error) {
	if n.Restores.Pages == nil {
		return false, nil // the plugin has said why when it started
	}
	images, err := criu.OpenImages(dir)
	if err != nil {
		return false, err
	}
	defer images.Close()
	var memories []int64
	for _, name := range images.Names() {
		if strings.HasPrefix(name, "pages-") {
			size, _ := images.Size(name)
			memories = append(memories, size)
		}
	}
	// That the kernel cannot do it is in the log.
	return asked.Lazily(memories...) && n.Restores.Pages.Able.Err(ctx) == nil, nil
}

// mayBeLazy says whether CRIU can map all memory before it is there, of a checkpoint that has been verified.
func mayBeLazy(ctx context.Context, is *verify.Report) bool {
	may, err := mayReserve(is.Reserved)
	if err == nil {
		err = is.Unreadable // then it is not known how much it is
	}
	if may = may && err == nil; !may {
		log.G(ctx).WithError(err).WithField("reserved", is.Reserved.All).WithField("largest", is.Reserved.Largest).
			Info("restoring eagerly: a process has reserved more address space than this node has memory, which a lazy " +
				"restore would need")
	}
	return may
}

// reasonPagesLost is the reason, in CRI's status, of the end of a container whose memory did not arrive.
const reasonPagesLost = "RestoreError"

// ContainerStatus says of a container that was killed because its memory did not arrive that this was why.
// kubelet shows it as the reason of the container's end.
func (s *Runtime) ContainerStatus(ctx context.Context,
	r *runtime.ContainerStatusRequest) (_ *runtime.ContainerStatusResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "ContainerStatus")
	resp, err := s.RuntimeServiceServer.ContainerStatus(ctx, r)
	if st := resp.GetStatus(); err == nil && unexplained(st) {
		if lost := s.lost(ctx, st.GetId()); lost != "" {
			st.Reason, st.Message = reasonPagesLost, lost
		}
	}
	if err == nil {
		s.showCommand(ctx, resp)
	}
	return resp, err
}

// GetContainerEvents tells of the same end what ContainerStatus does: a kubelet that listens to events asks for no
// status. (kubernetes: pkg/kubelet/pleg/evented.go.)
func (s *Runtime) GetContainerEvents(r *runtime.GetEventsRequest,
	stream grpc.ServerStreamingServer[runtime.ContainerEventResponse]) (retErr error) {
	ctx := stream.Context()
	defer recovery.Into(ctx, &retErr, "GetContainerEvents")
	return s.RuntimeServiceServer.GetContainerEvents(r, explainingStream{ServerStreamingServer: stream, runtime: s})
}

type explainingStream struct {
	grpc.ServerStreamingServer[runtime.ContainerEventResponse]
	runtime *Runtime
}

func (e explainingStream) Send(event *runtime.ContainerEventResponse) error {
	ctx := namespaces.WithNamespace(e.Context(), upstream.Namespace) // which containerd sets for the other streams only
	for i, st := range event.GetContainersStatuses() {
		if !unexplained(st) {
			continue
		}
		if lost := e.runtime.lost(ctx, st.GetId()); lost != "" {
			event = proto.Clone(event).(*runtime.ContainerEventResponse) // others listen to the same one
			event.ContainersStatuses[i].Reason, event.ContainersStatuses[i].Message = reasonPagesLost, lost
		}
	}
	return e.ServerStreamingServer.Send(event)
}

// unexplained reports whether a container has ended in a way that may be for want of its memory.
func unexplained(st *runtime.ContainerStatus) bool {
	return st.GetState() == runtime.ContainerState_CONTAINER_EXITED && st.GetExitCode() != 0 && st.GetMessage() == ""
}

// lost says that and why the memory of a container did not arrive. It is empty for one of which all did, and for an
// ordinary one.
func (s *Runtime) lost(ctx context.Context, id string) (why string) {
	if !s.node.users.may(ctx, id) {
		return ""
	}
	// A mistake here must not hide a container from the kubelet.
	recovery.Run(ctx, "reason of a container's end", func() {
		_, record, err := s.node.Restores.Get(ctx, id)
		if err != nil {
			return // an ordinary container, or one that is gone
		}
		if lost := s.node.Restores.Lost(record); lost != "" {
			why = "memory of the checkpoint did not arrive: " + lost
		}
	})
	return why
}
