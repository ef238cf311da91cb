package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/tracing"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/dump"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// CheckpointContainer checkpoints a running container into an archive, or straight into a checkpoint image, and
// lets it run on. The archive holds what containerd's own CheckpointContainer writes
// (internal/cri/server/container_checkpoint_linux.go).
func (s *Runtime) CheckpointContainer(ctx context.Context,
	r *runtime.CheckpointContainerRequest) (_ *runtime.CheckpointContainerResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "CheckpointContainer")
	if s.node.NoCRIU {
		return s.RuntimeServiceServer.CheckpointContainer(ctx, r) // which says so
	}
	if err := s.node.Able.Err(ctx); err != nil {
		log.G(ctx).WithError(err).Warn("this node cannot restore: the checkpoint is left to containerd")
		return s.RuntimeServiceServer.CheckpointContainer(ctx, r)
	}
	resp, err := s.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: r.GetContainerId()})
	if err != nil {
		return nil, fmt.Errorf("an error occurred when trying to find container the container status %q: %w",
			r.GetContainerId(), err)
	}
	status := resp.GetStatus()
	if state := status.GetState(); state != runtime.ContainerState_CONTAINER_RUNNING {
		return nil, fmt.Errorf("container %q is in %s state. only %s containers can be checkpointed",
			status.GetId(), state, runtime.ContainerState_CONTAINER_RUNNING)
	}
	c, err := s.node.Client.ContainerService().Get(ctx, status.GetId())
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", status.GetId(), err)
	}
	if c.Runtime.Name != restore.RuntimeRunc {
		return s.RuntimeServiceServer.CheckpointContainer(ctx, r) // for the runtime to say
	}
	if r.GetTimeout() > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(r.GetTimeout())*time.Second,
			fmt.Errorf("the checkpoint was not done within the %d seconds of the request: %w", r.GetTimeout(),
				context.DeadlineExceeded))
		defer cancel()
	}
	// CRIU does not dump what a page server is still to bring.
	if err := s.node.Restores.WaitDrained(ctx, c.ID); err != nil {
		return nil, err
	}
	if err := s.checkpoint(ctx, r.GetLocation(), &c, status); err != nil {
		switch {
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			err = context.Cause(ctx)
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
			err = fmt.Errorf("the disk is full: %w: %w", err, errdefs.ErrResourceExhausted)
		}
		return nil, fmt.Errorf("failed to checkpoint container %q: %w", c.ID, err)
	}
	return &runtime.CheckpointContainerResponse{}, nil
}

// target is where a checkpoint is to be.
type target interface {
	// place is the directory in which the checkpoint is made and the name of what is made.
	place() (dir, name string)
	// prepare returns the directory into which CRIU dumps.
	prepare(ctx context.Context, d *dump.Dump) (string, error)
	// finish makes the result of that directory.
	finish(ctx context.Context, d *dump.Dump, dir string) error
}

// target chooses by the location, and refuses one that cannot be.
func (s *Runtime) target(ctx context.Context, location string, c *containers.Container,
	compression policy.Compression) (target, error) {
	if name, ok := strings.CutPrefix(location, policy.ImageLocation); ok {
		return s.imageTarget(ctx, name, c, compression)
	}
	if !filepath.IsAbs(location) || strings.HasSuffix(location, "/") {
		return nil, fmt.Errorf("location %q: neither the absolute path of an archive nor %sNAME: %w", location,
			policy.ImageLocation, errdefs.ErrInvalidArgument)
	}
	if name := filepath.Base(location); len(name) > unix.NAME_MAX {
		// Otherwise it would be found out when the archive is there, after the freeze.
		return nil, fmt.Errorf("location %q: its file name has %d bytes, more than the %d that a name may have: choose a "+
			"shorter one: %w",
			location, len(name), unix.NAME_MAX, errdefs.ErrInvalidArgument)
	}
	if _, err := os.Lstat(location); err == nil {
		return nil, fmt.Errorf("checkpoint archive %q exists: remove it, or choose another name: %w", location,
			errdefs.ErrAlreadyExists)
	}
	return &archiveTarget{file: filepath.Clean(location), compression: compression}, nil
}

// checkpointTries is how often a container is checkpointed that cannot be for a reason that may pass.
const checkpointTries = 4

// checkpoint takes the checkpoint, in some seconds' time if that is not possible now.
func (s *Runtime) checkpoint(ctx context.Context, location string, c *containers.Container,
	status *runtime.ContainerStatus) (retErr error) {
	ctx, span := tracing.StartSpan(ctx, "cri.restore.checkpoint", tracing.WithAttribute("container.id", c.ID),
		tracing.WithAttribute("location", location))
	defer func() { span.SetStatus(retErr); span.End() }()
	began := time.Now()
	defer func() { observeCheckpoint(began, retErr) }()
	defer recovery.Into(ctx, &retErr, "checkpoint")

	asked, err := s.asked(ctx, c.SandboxID)
	if err != nil {
		return err
	}
	// Of two requests only one tells the program, and the other does not tell it in between that all is over.
	release, err := s.node.Dumps.Hold(c.ID)
	if err != nil {
		return err
	}
	defer release()
	// What cannot be done is said before the program is told.
	if _, err := s.target(ctx, location, c, asked.Compression); err != nil {
		return err
	}
	return s.taking(ctx, &asked, c.ID, status.GetMetadata().GetName(), func() error {
		return s.retryCheckpoint(ctx, location, c, status, asked.Compression)
	})
}

// retryCheckpoint takes the checkpoint when it is possible.
func (s *Runtime) retryCheckpoint(
	ctx context.Context, location string, c *containers.Container, status *runtime.ContainerStatus,
	compression policy.Compression,
) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := s.tryCheckpoint(ctx, location, c, status, compression)
		var passing *dump.PassingError
		if !errors.As(err, &passing) {
			return struct{}{}, backoff.Permanent(err)
		}
		log.G(ctx).WithError(err).WithField("container", c.ID).Info("cannot checkpoint container at this moment")
		return struct{}{}, err
	}, backoff.WithMaxTries(checkpointTries), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: time.Second,
	}))
	return err
}

// tryCheckpoint takes the checkpoint, or leaves everything as it was.
func (s *Runtime) tryCheckpoint(
	ctx context.Context, location string, c *containers.Container, status *runtime.ContainerStatus,
	compression policy.Compression,
) error {
	began := time.Now()
	t, err := s.target(ctx, location, c, compression)
	if err != nil {
		return err
	}
	parent, name := t.place()
	d, ctx, err := s.node.Dumps.Begin(ctx, c, parent, name)
	if err != nil {
		return err
	}
	defer d.End(ctx)
	dir, err := t.prepare(ctx, d)
	if err != nil {
		return err
	}
	logged, err := openLog(status.GetLogPath())
	if err != nil {
		return err
	}
	defer logged.close()
	// Before the freeze, because it can fail and needs no frozen container.
	if err := s.node.describe(c, status, dir); err != nil {
		return err
	}
	if err := s.shares(d, c); err != nil {
		return err
	}
	if err := d.Take(ctx, dir, logged.mark); err != nil {
		return err
	}
	writing := time.Now()
	if err := logged.copy(ctx, filepath.Join(dir, checkpoint.LogFile)); err != nil {
		return fmt.Errorf("container log: %w", err)
	}
	if err := t.finish(ctx, d, dir); err != nil {
		return err
	}
	d.Times.Write = time.Since(writing)
	observeDump(&d.Times)
	span := tracing.SpanFromContext(ctx)
	for key, took := range d.Times.All() {
		span.SetAttributes(tracing.Attribute(key, took.String()))
	}
	log.G(ctx).WithFields(fields(&d.Times)).WithField("container", c.ID).WithField("location", location).
		WithField("took", time.Since(began).Round(time.Millisecond).String()).Info("checkpointed container")
	return nil
}

func fields(t *dump.Times) log.Fields {
	out := log.Fields{}
	for key, took := range t.All() {
		out[key] = took.Round(time.Millisecond / 10).String()
	}
	return out
}
