package cri

import (
	"context"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"

	"github.com/cri-restore/cri-restore/internal/dump"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// withShm makes the shared memory of a container that has the pod's for itself a part of its checkpoint, and keeps
// others' out of it. That is /dev/shm and System V IPC. A volume that is mounted there belongs to the pod's spec, and
// with hostIPC the node's to the node.
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
	d.SharesIPC(func(ctx context.Context) (bool, error) {
		if restore.PodIPC(spec) == "" { // the node's
			return false, nil
		}
		return s.isAlone(ctx, c)
	})
	return nil
}

// isAlone says whether no other container of the pod runs, or may have run a moment ago.
func (s *Runtime) isAlone(ctx context.Context, c *containers.Container) (bool, error) {
	other, err := s.beside(ctx, c.SandboxID, c.ID)
	return other == "", err
}
