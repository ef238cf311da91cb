package cri

import (
	"context"

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
	record := s.recordOf(ctx, r.GetContainerId())
	resp, err := s.RuntimeServiceServer.RemoveContainer(ctx, r)
	if err == nil && record != nil {
		s.removeRestore(ctx, record)
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
	records := map[string]*restore.Record{}
	list, err := s.ListContainers(ctx,
		&runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{PodSandboxId: r.GetPodSandboxId()}})
	if err != nil {
		return nil, err
	}
	for _, c := range list.GetContainers() {
		if record := s.recordOf(ctx, c.GetId()); record != nil {
			records[c.GetId()] = record
		}
	}
	resp, err := s.RuntimeServiceServer.RemovePodSandbox(ctx, r)
	for id, record := range records {
		// The pod may be gone in part only.
		if _, gerr := s.node.Client.ContainerService().Get(ctx, id); errdefs.IsNotFound(gerr) {
			s.removeRestore(ctx, record)
		}
	}
	return resp, err
}

// recordOf returns the record of a container, nil if it is an ordinary one. The
// ID may be a prefix, as crictl sends it.
func (s *Runtime) recordOf(ctx context.Context, id string) *restore.Record {
	if !s.node.users.may(ctx, id) {
		return nil
	}
	resp, err := s.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return nil // containerd says why
	}
	var record *restore.Record
	// A container is removed, whatever its record does to us.
	err = recovery.Do(ctx, "restore record", func() (err error) {
		_, record, err = s.node.Restores.Get(ctx, resp.GetStatus().GetId())
		return err
	})
	if err != nil {
		if !errdefs.IsNotFound(err) {
			log.G(ctx).WithError(err).Warn("restore record cannot be read, what the restore left stays until containerd " +
				"starts again")
		}
		return nil
	}
	return record
}

func (s *Runtime) removeRestore(ctx context.Context, record *restore.Record) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := recovery.Do(ctx, "remove restore", func() error { return s.node.Restores.Remove(ctx, record) }); err != nil {
		log.G(ctx).WithError(err).WithField("restore", record.ID).Error("failed to remove what a restore had left")
	}
}
