package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/tracing"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// maxCommandOutput bounds what is kept of a command's output, in bytes.
const maxCommandOutput = 2048

// execute runs the command of an annotation in a container, as "crictl exec" does: as the container's user, with its
// environment. The error names the annotation, the container and what the command wrote. Its class is
// errdefs.ErrFailedPrecondition for a command that failed, and context.DeadlineExceeded for one that took too long.
func (s *Runtime) execute(ctx context.Context, annotation, id string, args []string) (_ *restore.Command,
	retErr error) {
	ctx, span := tracing.StartSpan(ctx, "cri.restore.command", tracing.WithAttribute("container.id", id),
		tracing.WithAttribute("annotation", annotation))
	defer func() { span.SetStatus(retErr); span.End() }()
	began := time.Now()
	defer func() { observeCommand(annotation, began, retErr) }()
	what := fmt.Sprintf("command %q of pod annotation %q in container %s", args, policy.AnnotationPrefix+annotation, id)
	timeout := s.node.CommandTimeout
	resp, err := s.RuntimeServiceServer.ExecSync(ctx, &runtime.ExecSyncRequest{
		ContainerId: id, Cmd: args, Timeout: int64(timeout / time.Second),
	})
	did := &restore.Command{
		Args: args, ExitCode: resp.GetExitCode(), Took: time.Since(began),
		Output: strings.ToValidUTF8(last(string(resp.GetStdout())+string(resp.GetStderr()), maxCommandOutput), "\uFFFD"),
	}
	switch {
	case err != nil:
		did.Error = err.Error()
		return did, fmt.Errorf("%s, which may take %s: %w", what, timeout, err)
	case did.ExitCode != 0:
		return did, fmt.Errorf("%s exited with status %d: %q: %w", what, did.ExitCode, did.Output,
			errdefs.ErrFailedPrecondition)
	}
	log.G(ctx).WithField("container", id).WithField("annotation", annotation).WithField("took",
		did.Took.Round(time.Millisecond).String()).
		WithField("output", did.Output).Info("ran the command of a pod annotation")
	return did, nil
}

// last returns the end of a text.
func last(text string, most int) string { return text[max(len(text)-most, 0):] }

// taking runs take between the commands by which a program takes part in its checkpoint. Without the first one's
// success nothing is taken. What the first one began the second ends, whatever became of the checkpoint, and of the
// request.
func (s *Runtime) taking(ctx context.Context, asked *policy.Pod, id, name string, take func() error) error {
	if args := asked.After[name]; args != nil {
		defer func() {
			ctx := context.WithoutCancel(ctx)
			err := recovery.Do(ctx, "command after a checkpoint", func() error {
				_, err := s.execute(ctx, policy.AnnotationAfterCheckpoint, id, args)
				return err
			})
			if err != nil {
				log.G(ctx).WithError(err).WithField("container", id).Error("the container may not know that its checkpoint is over")
			}
		}()
	}
	if args := asked.Before[name]; args != nil {
		if _, err := s.execute(ctx, policy.AnnotationBeforeCheckpoint, id, args); err != nil {
			return err
		}
	}
	return take()
}

// afterRestore runs the pod's command in a container that was just restored, and records what it did.
func (s *Runtime) afterRestore(ctx context.Context, c *restored) error {
	asked, err := s.asked(ctx, c.SandboxID)
	if err != nil || asked.Restored[c.name] == nil {
		return err
	}
	did, err := s.execute(ctx, policy.AnnotationAfterRestore, c.ID, asked.Restored[c.name])
	if nerr := s.node.Restores.NoteCommand(context.WithoutCancel(ctx), c.ID, did); nerr != nil {
		log.G(ctx).WithError(nerr).WithField("container", c.ID).Warn("cannot note what a command did after a restore")
	}
	return err
}

// asked are the requests of a pod that runs.
func (s *Runtime) asked(ctx context.Context, sandbox string) (policy.Pod, error) {
	resp, err := s.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: sandbox})
	if err != nil {
		return policy.Pod{}, fmt.Errorf("pod sandbox %q: %w", sandbox, err)
	}
	return s.node.Policy.Pod(resp.GetStatus().GetAnnotations())
}

// showCommand adds what a command did after the restore to what is shown of a container with all details, as "crictl
// inspect" does.
func (s *Runtime) showCommand(ctx context.Context, resp *runtime.ContainerStatusResponse) {
	id := resp.GetStatus().GetId()
	if resp.GetInfo() == nil || !s.node.users.may(ctx, id) {
		return
	}
	_, record, err := s.node.Restores.Get(ctx, id)
	if err != nil || record.Command == nil {
		return // an ordinary container, or one in which no command ran
	}
	text, err := json.Marshal(record.Command)
	if err != nil {
		log.G(ctx).WithError(err).WithField("container", id).Warn("cannot show what a command did after a restore")
		return
	}
	resp.Info[policy.AnnotationAfterRestore] = string(text)
}
