package cri

import (
	"context"

	"github.com/containerd/log"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/recovery"
)

// StartContainer starts a container, or restores it, and runs the pod's command in one that was restored. While it is
// not known that the node can restore, a container that is still to be restored is refused before containerd has begun:
// to its CRI plugin a start that fails is the last.
func (s *Runtime) StartContainer(ctx context.Context,
	r *runtime.StartContainerRequest) (_ *runtime.StartContainerResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "StartContainer")
	if !s.node.Able.Passed() {
		if id := pending(ctx, s.RuntimeServiceServer, s.node.Client.ContainerService(), r.GetContainerId()); id != "" {
			if err := s.node.Able.Err(ctx); err != nil {
				return nil, cannotGoOn(ctx, id, err)
			}
		}
	}
	resp, err := s.RuntimeServiceServer.StartContainer(ctx, r)
	if err != nil {
		return resp, err
	}
	c := s.restored(ctx, r.GetContainerId())
	if c == nil {
		return resp, nil
	}
	// The container runs, and a kubelet that were told otherwise would not know what to do with it.
	err = recovery.Do(ctx, "command after a restore", func() error { return s.afterRestore(ctx, c) })
	if err != nil {
		log.G(ctx).WithError(err).WithField("container", c.ID).
			Error("the program of a restored container may not know that it was restored")
	}
	return resp, nil
}
