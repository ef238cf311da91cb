package cri

import (
	"context"
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
	"github.com/cri-restore/cri-restore/internal/podnet"
	"github.com/cri-restore/cri-restore/internal/restore"
	"github.com/cri-restore/cri-restore/internal/sysv"
	"github.com/cri-restore/cri-restore/internal/turn"
	"github.com/cri-restore/cri-restore/internal/verify"
)

// leaseTime is how long the lease of a restore lasts if containerd dies before
// it is released, and does not come back to find it.
const leaseTime = 24 * time.Hour

// lease protects what a restore makes until the container's record does.
func (n *Node) lease(ctx context.Context, id string) (context.Context, func(context.Context) error, error) {
	l, err := n.Client.LeasesService().Create(ctx, leases.WithID(restore.SnapshotKey(id)),
		leases.WithExpiration(leaseTime),
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

// inTurn does what takes processors and disk, a few restores at a time. It must not wait for anything else, such
// as the pull of a base image. The context has the turn.
func (n *Node) inTurn(ctx context.Context, record *restore.Record, f func(context.Context) error) error {
	var t *turn.Turn
	err := record.Times.Do(ctx, phase.Wait, func(ctx context.Context) (err error) {
		t, err = n.Restores.Turns.Take(ctx, record.Namespace)
		return err
	})
	if err != nil {
		return fmt.Errorf("restore was not begun: %w", err)
	}
	defer t.Done()
	return f(turn.With(ctx, t))
}

// prepare verifies the checkpoint against the container's OCI spec, which
// exists now, and brings the checkpoint's files into place. What a later failure has to take back is put on the
// undo list. It returns what the spec needs besides.
func (s *Runtime) prepare(ctx context.Context, r *runtime.CreateContainerRequest, pod *pod, id string,
	c *checkpoint.Checkpoint, record *restore.Record, undo *undoList) (func(*specs.Spec), error) {
	container, err := s.node.Client.ContainerService().Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	if err := s.node.Restores.CheckRuntime(ctx, nil, container.Runtime.Options); err != nil {
		return nil, err
	}
	spec, err := restore.SpecOf(&container)
	if err != nil {
		return nil, err
	}
	engine, err := s.node.Restores.EngineMounts(record, &c.Metadata, spec)
	if err != nil {
		return nil, err
	}
	spec.Mounts = append(spec.Mounts, engine...)
	addresses, err := podnet.Addresses(networkOf(spec))
	if err != nil {
		return nil, fmt.Errorf("network of pod sandbox %s: %w", pod.id, err)
	}
	verification := &verification{node: s.node, id: id, dir: c.ImagesDir(), record: record, Subject: verify.Subject{
		Metadata: &c.Metadata, Spec: spec, Stdin: r.GetConfig().GetStdin(),
		Rules: verify.Rules{Network: &verify.Network{Addresses: addresses, Pod: pod.addresses}},
	}}
	var modes map[string]uint32
	err = record.Times.Do(ctx, phase.Verify, func(ctx context.Context) (err error) {
		modes, err = verification.before(ctx)
		return err
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
		if err := restore.ApplyRootfs(ctx, c, mounts, rootfs, s.node.Limits); err != nil {
			return err
		}
		// Before the paths of open files are looked at: what comes into /dev/shm decides where they are, too.
		return s.fillShm(ctx, r.GetPodSandboxId(), id, c, spec, undo)
	})
	if err != nil {
		return nil, err
	}
	var masked []string
	err = record.Times.Do(ctx, phase.Verify, func(ctx context.Context) (err error) {
		masked, err = verification.after(ctx, mounts, rootfs, modes)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.clearIPC(ctx, r.GetPodSandboxId(), id, verification.ipc, spec); err != nil {
		return nil, err
	}
	err = record.Times.Do(ctx, phase.Materialise, func(ctx context.Context) error {
		undoLog, err := restore.CopyLog(ctx, c, logPath(r))
		if err != nil {
			return err
		}
		undo.add("restore log", func(context.Context) error { return undoLog() })
		return nil
	})
	if err != nil {
		return nil, err
	}
	return func(spec *specs.Spec) {
		spec.Mounts = append(spec.Mounts, engine...)
		spec.Linux.MaskedPaths = append(spec.Linux.MaskedPaths, masked...)
	}, nil
}

// fillShm brings the checkpoint's files of /dev/shm into the pod's. It is all containers', so nobody else may be using
// it; containers that have ended do not.
func (s *Runtime) fillShm(ctx context.Context, pod, id string, c *checkpoint.Checkpoint, spec *specs.Spec,
	undo *undoList) error {
	if has, err := restore.HasShm(ctx, c); err != nil || !has {
		return err
	}
	other, err := s.beside(ctx, pod, id)
	if err != nil {
		return err
	}
	if other != "" {
		return fmt.Errorf("the checkpoint has files in /dev/shm, which the pod shares with its container %q: restore it "+
			"in a pod of its own: %w",
			other, errdefs.ErrFailedPrecondition)
	}
	undoShm, err := restore.FillShm(ctx, c, spec, s.node.Limits)
	if err != nil {
		return err
	}
	undo.add("restore /dev/shm", func(context.Context) error { return undoShm() })
	return nil
}

// clearIPC removes from the pod's IPC namespace what an earlier life of the container has left there of System V IPC.
// Next to a container that runs nothing is removed: whose it is nobody knows.
func (s *Runtime) clearIPC(ctx context.Context, pod, id string, made []sysv.Object, spec *specs.Spec) error {
	path, inTheWay, err := restore.IPCInTheWay(made, spec)
	if err != nil || len(inTheWay) == 0 {
		return err
	}
	other, err := s.beside(ctx, pod, id)
	if err != nil {
		return err
	}
	if other != "" {
		return fmt.Errorf("%s of the pod is in the way of the checkpoint's, and may be its container %q's: end that, or "+
			"restore it in a pod of its own: %w",
			inTheWay[0], other, errdefs.ErrFailedPrecondition)
	}
	return restore.ClearIPC(path, inTheWay)
}

// beside is the name of a container of the pod, beside the one with this ID, that runs or may run in a moment. It is
// empty if there is none.
func (s *Runtime) beside(ctx context.Context, pod, id string) (string, error) {
	list, err := s.ListContainers(ctx, &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{PodSandboxId: pod}})
	if err != nil {
		return "", fmt.Errorf("containers of pod sandbox %s: %w", pod, err)
	}
	for _, other := range list.GetContainers() {
		if other.GetId() != id && other.GetState() != runtime.ContainerState_CONTAINER_EXITED {
			return other.GetMetadata().GetName(), nil
		}
	}
	return "", nil
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
func (n *Node) attach(ctx context.Context, id string, record *restore.Record, change func(*specs.Spec)) error {
	return n.Restores.Attach(ctx, id, record, func(c *containers.Container) error {
		spec, err := restore.SpecOf(c)
		if err != nil {
			return err
		}
		annotations, err := n.Restores.WriteConfig(record, spec)
		if err != nil {
			return err
		}
		if spec.Annotations == nil {
			spec.Annotations = map[string]string{}
		}
		maps.Copy(spec.Annotations, annotations)
		change(spec)
		c.Spec, err = typeurl.MarshalAny(spec)
		return err
	})
}
