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

// shares says what memory a container has in common with its pod: System V IPC, and /dev/shm. A volume that is mounted
// there belongs to the pod's spec, and with hostIPC both are the node's, where nobody is alone.
func (s *Runtime) shares(d *dump.Dump, c *containers.Container) error {
	spec, err := restore.SpecOf(c)
	if err != nil {
		return err
	}
	nodes := restore.PodIPC(spec) == ""
	shared := dump.Shared{Limit: s.node.Limits.DiffBytes, Alone: func(ctx context.Context) (bool, error) {
		if nodes {
			return false, nil
		}
		return s.isAlone(ctx, c)
	}}
	// containerd: internal/cri/server/helpers.go, getSandboxDevShm.
	own := filepath.Join("/sandboxes", c.SandboxID, "shm")
	for _, m := range spec.Mounts {
		if path.Clean(m.Destination) == "/dev/shm" && c.SandboxID != "" && strings.HasSuffix(m.Source, own) {
			shared.Shm = m.Source
		}
	}
	d.Shares(shared)
	return nil
}

// isAlone says whether no other container of the pod runs, or may have run a moment ago.
func (s *Runtime) isAlone(ctx context.Context, c *containers.Container) (bool, error) {
	other, err := s.beside(ctx, c.SandboxID, c.ID)
	return other == "", err
}
