package cri

import (
	"context"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/recovery"
)

// lazily decides whether a restore is to be lazy, by what was asked for and how much memory there is.
func (n *Node) lazily(ctx context.Context, asked policy.Lazy, dir string) (bool, error) {
	if n.Restores.Pages == nil {
		return false, nil // the plugin has said why when it started
	}
	images, err := criu.OpenImages(dir)
	if err != nil {
		return false, err
	}
	defer images.Close()
	var pages int64
	for _, name := range images.Names() {
		if strings.HasPrefix(name, "pages-") {
			size, _ := images.Size(name)
			pages += size
		}
	}
	// That the kernel cannot do it is in the log.
	return asked.Lazily(pages) && n.Restores.Pages.Able.Err(ctx) == nil, nil
}

// reasonPagesLost is the reason, in CRI's status, of the end of a container whose memory did not arrive.
const reasonPagesLost = "RestoreError"

// ContainerStatus says of a container that was killed because its memory did not arrive that this was why.
// kubelet shows it as the reason of the container's end.
func (s *Runtime) ContainerStatus(ctx context.Context, r *runtime.ContainerStatusRequest) (_ *runtime.ContainerStatusResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "ContainerStatus")
	resp, err := s.RuntimeServiceServer.ContainerStatus(ctx, r)
	st := resp.GetStatus()
	if err != nil || st.GetState() != runtime.ContainerState_CONTAINER_EXITED || st.GetExitCode() == 0 || st.GetMessage() != "" {
		return resp, err
	}
	// A mistake here must not hide a container from the kubelet.
	recovery.Run(ctx, "reason of a container's end", func() {
		_, record, err := s.node.Restores.Get(ctx, st.GetId())
		if err != nil {
			return // an ordinary container, or one that is gone
		}
		if lost := s.node.Restores.Lost(record); lost != "" {
			st.Reason, st.Message = reasonPagesLost, "memory of the checkpoint did not arrive: "+lost
		}
	})
	return resp, nil
}
