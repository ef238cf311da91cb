package cri

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/dump"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// withShm makes /dev/shm a part of the checkpoint of a container that has the pod's for itself. A volume that is mounted there belongs to the
// pod's spec, and with hostIPC the node's to the node.
func (s *Runtime) withShm(d *dump.Dump, c *containers.Container) error {
	spec, err := restore.SpecOf(c)
	if err != nil {
		return err
	}
	// containerd: internal/cri/server/helpers.go, getSandboxDevShm.
	own := filepath.Join("/sandboxes", c.SandboxID, "shm")
	for _, m := range spec.Mounts {
		if path.Clean(m.Destination) == "/dev/shm" && c.SandboxID != "" && strings.HasSuffix(m.Source, own) {
			d.WithShm(m.Source, s.node.Limits.DiffBytes, func(ctx context.Context) (bool, error) { return s.isAlone(ctx, c) })
		}
	}
	return nil
}

// isAlone says whether no other container of the pod runs, or may have run a moment ago.
func (s *Runtime) isAlone(ctx context.Context, c *containers.Container) (bool, error) {
	list, err := s.ListContainers(ctx, &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{PodSandboxId: c.SandboxID}})
	if err != nil {
		return false, fmt.Errorf("containers of pod sandbox %s: %w", c.SandboxID, err)
	}
	for _, other := range list.GetContainers() {
		if other.GetId() != c.ID && other.GetState() != runtime.ContainerState_CONTAINER_EXITED {
			return false, nil
		}
	}
	return true, nil
}
