package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/phase"
	"github.com/cri-restore/cri-restore/internal/restore"
	"github.com/cri-restore/cri-restore/internal/verify"
)

// leaseTime is how long the lease of a restore lasts if containerd dies before
// it is released, and does not come back to find it.
const leaseTime = 24 * time.Hour

// lease protects what a restore makes until the container's record does.
func (n *Node) lease(ctx context.Context, id string) (context.Context, func(context.Context) error, error) {
	l, err := n.Client.LeasesService().Create(ctx, leases.WithID(restore.SnapshotKey(id)), leases.WithExpiration(leaseTime),
		leases.WithLabels(map[string]string{restore.LabelID: id}))
	if err != nil {
		return nil, nil, fmt.Errorf("lease of restore %s: %w", id, err)
	}
	release := func(ctx context.Context) error {
		if err := n.Client.LeasesService().Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		return nil
	}
	return leases.WithLease(ctx, l.ID), release, nil
}

// prepare verifies the checkpoint against the container's OCI spec, which
// exists now, and brings the checkpoint's files into place.
func (s *Runtime) prepare(ctx context.Context, r *runtime.CreateContainerRequest, id string, c *checkpoint.Checkpoint, record *restore.Record) (undoLog func() error, err error) {
	container, err := s.node.Client.ContainerService().Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	spec, err := specOf(&container)
	if err != nil {
		return nil, err
	}
	err = record.Times.Do(ctx, phase.Verify, func(ctx context.Context) error {
		if err := verify.Compare(&c.Metadata, spec, r.GetConfig().GetStdin()); err != nil {
			return err
		}
		return s.node.verify(ctx, id, c.ImagesDir(), spec, record)
	})
	if err != nil {
		return nil, err
	}
	mounts, err := s.node.Client.SnapshotService(container.Snapshotter).Mounts(ctx, container.SnapshotKey)
	if err != nil {
		return nil, fmt.Errorf("snapshot of container %s: %w", id, err)
	}
	rootfs := s.node.Restores.Dirs.Rootfs(record.ID)
	err = record.Times.Do(ctx, phase.Materialise, func(ctx context.Context) error {
		return restore.ApplyRootfs(ctx, c, mounts, rootfs, s.node.Limits)
	})
	if err != nil {
		return nil, err
	}
	err = record.Times.Do(ctx, phase.Verify, func(ctx context.Context) error {
		return restore.InspectRootfs(mounts, rootfs, func(root string) error {
			return s.node.verifyFiles(ctx, id, c.ImagesDir(), spec, root, record)
		})
	})
	if err != nil {
		return nil, err
	}
	err = record.Times.Do(ctx, phase.Materialise, func(ctx context.Context) (err error) {
		undoLog, err = restore.CopyLog(ctx, c, logPath(r))
		return err
	})
	return undoLog, err
}

// logPath is where containerd will log (containerd: internal/cri/server/container_create.go).
func logPath(r *runtime.CreateContainerRequest) string {
	dir, file := r.GetSandboxConfig().GetLogDirectory(), r.GetConfig().GetLogPath()
	if dir == "" || file == "" {
		return ""
	}
	return filepath.Join(dir, file)
}

// attach writes record and CRIU configuration. From here on the container is
// one that is restored.
func (n *Node) attach(ctx context.Context, id string, record *restore.Record) error {
	annotations, err := n.Restores.WriteConfig(record)
	if err != nil {
		return err
	}
	return n.Restores.Attach(ctx, id, record, func(c *containers.Container) error {
		spec, err := specOf(c)
		if err != nil {
			return err
		}
		if spec.Annotations == nil {
			spec.Annotations = map[string]string{}
		}
		maps.Copy(spec.Annotations, annotations)
		c.Spec, err = typeurl.MarshalAny(spec)
		return err
	})
}

func specOf(c *containers.Container) (*specs.Spec, error) {
	var spec specs.Spec
	if err := json.Unmarshal(c.Spec.GetValue(), &spec); err != nil {
		return nil, fmt.Errorf("OCI spec of container %s: %w", c.ID, err)
	}
	return &spec, nil
}
