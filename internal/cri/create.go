package cri

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/pkg/tracing"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/image"
	"github.com/cri-restore/cri-restore/internal/origin"
	"github.com/cri-restore/cri-restore/internal/phase"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// CreateContainer creates a container. If its image is a checkpoint, the
// container is created from the checkpoint's base image and prepared so that
// its start is a restore.
func (s *Runtime) CreateContainer(ctx context.Context,
	r *runtime.CreateContainerRequest) (_ *runtime.CreateContainerResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "CreateContainer")
	began := time.Now()
	ref := r.GetConfig().GetImage().GetImage()
	if policy.IsArchive(ref) {
		if err := s.node.Able.Err(ctx); err != nil {
			return nil, cannotRestore(ctx, ref, err)
		}
		if _, err := s.node.Policy.Archive(ref); err != nil {
			return nil, err
		}
		return s.restore(ctx, r, &archiveSource{node: s.node, path: ref}, began)
	}
	// What the image holds comes before all that is asked of checkpoints only: an ordinary one is created as without the
	// plugin.
	img, err := s.detector.Detect(ctx, r.GetConfig().GetImage(), s.look.inPod(s.RuntimeServiceServer, r.GetPodSandboxId()))
	if err != nil {
		return nil, err
	}
	if img == nil {
		return s.RuntimeServiceServer.CreateContainer(ctx, r)
	}
	if err := s.node.Able.Err(ctx); err != nil {
		return nil, cannotRestore(ctx, ref, err)
	}
	return s.restore(ctx, r, &imageSource{node: s.node, image: img, ref: r.GetConfig().GetImage()}, began)
}

// restore creates a container that is restored when it starts. If that cannot be, and the pod wants so, it creates
// one that is not.
func (s *Runtime) restore(ctx context.Context, r *runtime.CreateContainerRequest, src source,
	began time.Time) (*runtime.CreateContainerResponse, error) {
	resp, err := s.tryRestore(ctx, r, src, began)
	observeCreation(began, err)
	var u *unrestorable
	if errors.As(err, &u) {
		return s.startFresh(ctx, r, u)
	}
	return resp, err
}

// tryRestore is the order of the steps. Whatever a step leaves behind is put on
// the undo list, and taken back if a later step fails.
func (s *Runtime) tryRestore(ctx context.Context, r *runtime.CreateContainerRequest, src source,
	began time.Time) (_ *runtime.CreateContainerResponse, retErr error) {
	ctx, span := tracing.StartSpan(ctx, "cri.restore.create", tracing.WithAttribute("checkpoint", src.name()))
	defer func() { span.SetStatus(retErr); span.End() }()

	pod, err := s.pod(ctx, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	asked, err := s.admit(r, pod, src)
	if err != nil {
		return nil, err
	}
	record := &restore.Record{ID: restore.NewID(), Image: src.name(), Namespace: pod.namespace, TCP: string(asked.TCP)}
	record.Times.Add(phase.Resolve, time.Since(began))
	var undo undoList
	defer func() {
		if retErr != nil {
			undo.run(ctx)
		}
	}()
	defer recovery.Into(ctx, &retErr, "restore") // after the undo list was, which therefore sees the error
	leased, release, err := s.node.lease(ctx, record.ID)
	if err != nil {
		return nil, err
	}
	undo.add("release lease", release)
	undo.add("remove directories", func(ctx context.Context) error { return s.node.Restores.Remove(ctx, record) })

	var c *checkpoint.Checkpoint
	err = s.node.inTurn(leased, record, func(ctx context.Context) error {
		return record.Times.Do(ctx, phase.View, func(ctx context.Context) (err error) {
			c, err = src.open(ctx, pod, record)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if record.Lazy, err = s.node.lazily(ctx, asked.Lazy, c.ImagesDir()); err != nil {
		return nil, fmt.Errorf("checkpoint %s: %w", src.name(), err)
	}
	if !record.Lazy {
		// Of a lazy restore it would be in the way: its pages are not needed now, and the disk is.
		stopWarming := warm(ctx, c.ImagesDir())
		undo.add("stop reading ahead", func(context.Context) error { stopWarming(); return nil })
	}

	// Not under the lease: a pull outlives this request.
	var base *image.Base
	err = record.Times.Do(ctx, phase.Pull, func(ctx context.Context) (err error) {
		base, err = s.bases.Ensure(ctx, image.Request{
			Base: c.Metadata.Base, SandboxConfig: r.GetSandboxConfig(), RuntimeHandler: pod.handler,
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("checkpoint %s: %w", src.name(), err)
	}
	describe(record, &c.Metadata, base)
	if asked.OnFailure == policy.StartFresh {
		if err := s.failedBefore(ctx, r, record); err != nil {
			return nil, &unrestorable{error: err, record: record, base: base}
		}
	}
	var resp *runtime.CreateContainerResponse
	// Under the lease, so that containerd makes none of its own, which would be left for a day if it is killed.
	err = record.Times.Do(leased, phase.Container, func(ctx context.Context) (err error) {
		resp, err = s.RuntimeServiceServer.CreateContainer(origin.With(ctx, record.Origin("")),
			rewrite(r, &c.Metadata, base, record))
		return err
	})
	if err != nil {
		return nil, err
	}
	id := resp.GetContainerId()
	undo.add("remove container", func(ctx context.Context) error {
		_, err := s.RuntimeServiceServer.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: id})
		return err
	})
	s.node.users.add(id)
	if err := s.node.noted(ctx, id); err != nil {
		return nil, err
	}
	var change func(*specs.Spec)
	err = s.node.inTurn(leased, record, func(ctx context.Context) (err error) {
		change, err = s.prepare(ctx, r, pod, id, c, record, &undo)
		return err
	})
	if err != nil {
		err = fmt.Errorf("checkpoint %s: %w", src.name(), err)
		if asked.OnFailure == policy.StartFresh && settled(err) {
			err = &unrestorable{error: err, record: record, base: base}
		}
		return nil, err
	}
	if err := s.node.attach(ctx, id, record, change); err != nil {
		return nil, err
	}
	// The record protects the view from here on.
	if err := release(ctx); err != nil {
		log.G(ctx).WithError(err).WithField("container", id).Warn("failed to release the lease of a restore, it will expire")
	}
	log.G(ctx).WithField("container", id).WithField("checkpoint", record.Image).WithField("base",
		record.BaseImage).WithField("times", record.Times.String()).
		Info("created container to be restored from checkpoint")
	return resp, nil
}

// noted checks that containerd has noted on the container what it is made for: another version's CRI plugin might
// create containers by another way than the service that is decorated.
func (n *Node) noted(ctx context.Context, id string) error {
	c, err := n.Client.ContainerService().Get(ctx, id)
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	if !restore.Unfinished(&c) {
		return fmt.Errorf("container %s does not say that it is to be restored: containerd %s does not create containers "+
			"as this plugin expects, "+
			"use a cri-restore that was made for it: %w", id, version.Version, errdefs.ErrNotImplemented)
	}
	return nil
}
