package cri

import (
	"context"
	"errors"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// RemoveContainer removes a container, and what its restore has left.
func (s *Runtime) RemoveContainer(ctx context.Context,
	r *runtime.RemoveContainerRequest) (_ *runtime.RemoveContainerResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "RemoveContainer")
	c := s.restored(ctx, r.GetContainerId())
	resp, err := s.RuntimeServiceServer.RemoveContainer(ctx, r)
	if err == nil && c != nil {
		s.removeRestore(ctx, c)
	}
	return resp, err
}

// RemovePodSandbox removes a pod with its containers, and what their restores
// have left.
func (s *Runtime) RemovePodSandbox(ctx context.Context,
	r *runtime.RemovePodSandboxRequest) (_ *runtime.RemovePodSandboxResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "RemovePodSandbox")
	if !s.node.users.may(ctx, "") {
		return s.RuntimeServiceServer.RemovePodSandbox(ctx, r)
	}
	all := map[string]*restored{}
	list, err := s.ListContainers(ctx,
		&runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{PodSandboxId: r.GetPodSandboxId()}})
	if err != nil {
		return nil, err
	}
	for _, c := range list.GetContainers() {
		if c := s.restored(ctx, c.GetId()); c != nil {
			all[c.ID] = c
		}
	}
	resp, err := s.RuntimeServiceServer.RemovePodSandbox(ctx, r)
	for id, c := range all {
		// The pod may be gone in part only.
		if _, gerr := s.node.Client.ContainerService().Get(ctx, id); errdefs.IsNotFound(gerr) {
			s.removeRestore(ctx, c)
		}
	}
	return resp, err
}

// restored is a container that is restored, or was.
type restored struct {
	*containers.Container
	name   string // in its pod
	record *restore.Record
}

// restored returns a container that is restored, nil if it is an ordinary one. The ID may be a prefix.
func (s *Runtime) restored(ctx context.Context, id string) *restored {
	if !s.node.users.may(ctx, id) {
		return nil
	}
	resp, err := s.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return nil // containerd says why
	}
	c := &restored{name: resp.GetStatus().GetMetadata().GetName()}
	// A container is removed, whatever its record does to us.
	err = recovery.Do(ctx, "restore record", func() (err error) {
		c.Container, c.record, err = s.node.Restores.Get(ctx, resp.GetStatus().GetId())
		return err
	})
	if err != nil {
		if !errdefs.IsNotFound(err) {
			log.G(ctx).WithError(err).WithField("container", resp.GetStatus().GetId()).
				Warn("the record of a restore cannot be read: no command runs after it, and when the container is removed " +
					"what the restore left stays until containerd starts again")
		}
		return nil
	}
	return c
}

func (s *Runtime) removeRestore(ctx context.Context, c *restored) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	err := recovery.Do(ctx, "remove restore", func() error {
		return errors.Join(s.node.Restores.RemoveRuncState(ctx, c.Container), s.node.Restores.Remove(ctx, c.record))
	})
	if err != nil {
		log.G(ctx).WithError(err).WithField("restore", c.record.ID).Error("failed to remove what a restore had left")
	}
}
