package cri

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
	"github.com/cri-restore/cri-restore/internal/sysv"
	"github.com/cri-restore/cri-restore/internal/turn"
	"github.com/cri-restore/cri-restore/internal/verify"
)

// answerGrace is how long a phase that has been told to end is waited for.
const answerGrace = time.Second

// verification is that of one checkpoint against one container, whose ID it has for the log.
type verification struct {
	node   *Node
	id     string
	dir    string // with the images
	record *restore.Record
	// spent is what both phases have taken so far of the node's VerificationTimeout.
	spent time.Duration
	// ipc are the objects of System V IPC that CRIU makes, as the first phase has found them.
	ipc []sysv.Object
	verify.Subject
}

// before is the first phase. What is compared is what CRIU will read: the record gets a digest of it. It also
// settles whether the restore can be lazy. It returns the modes of the root file system's directories.
func (v *verification) before(ctx context.Context) (map[string]uint32, error) {
	tcp := policy.TCP(v.record.TCP)
	v.Rules.AcceptTCP = tcp == policy.CloseTCP || tcp == policy.LocalTCP || tcp == policy.RestoreTCP
	v.Rules.LocalTCP = tcp == policy.LocalTCP
	is, err := v.within(ctx, verify.Before)
	if err != nil {
		return nil, err
	}
	v.record.ImagesDigest = is.digest
	report, err := v.judge(ctx, is)
	if err != nil {
		return nil, err
	}
	if report.TCPClosed && tcp == policy.LocalTCP {
		v.record.TCP = string(policy.CloseTCP) // which CRIU wants to be told
	}
	v.record.Lazy = v.record.Lazy && mayBeLazy(ctx, report)
	v.ipc = report.IPC
	return report.Directories, nil
}

// after is the second phase, with the root file system, which has the checkpoint's changes now and which nothing else
// can change until CRIU runs, and the volumes as they are. It returns the paths that the spec has to mask as well.
func (v *verification) after(ctx context.Context, mounts []mount.Mount, rootfs string,
	modes map[string]uint32) (masked []string, err error) {
	err = restore.InspectRootfs(mounts, rootfs, func(root string) error {
		if err := restore.SetModes(root, modes); err != nil {
			return err
		}
		is, err := v.within(ctx,
			func(ctx context.Context, s verify.Subject) (*verify.Report, error) { return verify.After(ctx, s, root) })
		if err != nil {
			return err
		}
		report, err := v.judge(ctx, is)
		if err != nil {
			return err
		}
		masked = report.Masked
		// They are in a read-only view or a private directory.
		if v.record.ImagesDigest != is.digest {
			return fmt.Errorf("CRIU images changed while they were verified, from %s to %s: %w", v.record.ImagesDigest,
				is.digest, errdefs.ErrFailedPrecondition)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return masked, nil
}

// outcome is that of a phase.
type outcome struct {
	digest string // of the images, as they were read
	report *verify.Report
	err    error // the report's
}

// within runs a phase in what is left of the node's time for a verification, or of the request's if that is less. A
// phase looks at the time itself. But it also asks the file systems of volumes, and one that does not answer cannot be
// told to: such a phase is left alone, with all that it uses, and counts against its namespace's turns until it comes
// back.
func (v *verification) within(ctx context.Context,
	phase func(context.Context, verify.Subject) (*verify.Report, error)) (*outcome, error) {
	began, timeout := time.Now(), v.node.VerificationTimeout
	defer func() { v.spent += time.Since(began) }()
	limited, cancel := context.WithCancel(ctx)
	if timeout > 0 {
		limited, cancel = context.WithTimeout(ctx, timeout-v.spent)
	}
	defer cancel()
	var (
		subject, dir = v.Subject, v.dir
		again        = v.record.ImagesDigest != ""
		release      = turn.Hold(ctx)
		is           = &outcome{}
		ended        = make(chan error, 1)
	)
	recovery.Go(ctx, "verification", func() {
		defer release()
		ended <- recovery.Do(limited, "verification", func() error { return is.of(limited, dir, subject, phase, again) })
	})
	var err error
	select {
	case err = <-ended:
	case <-limited.Done():
		select {
		case err = <-ended:
		case <-time.After(answerGrace):
			err = fmt.Errorf("it does not end: the file system of a volume does not answer: %w", limited.Err())
		}
	}
	if err == nil {
		err = is.over(limited)
	}
	switch {
	case err == nil:
		return is, nil
	case ctx.Err() == nil && limited.Err() != nil:
		// The time that ran out is the node's and no deadline of the request's, so its error is not wrapped.
		return nil, fmt.Errorf("the verification of the checkpoint took more than %v: %v: if the checkpoint is right, "+
			"raise verification_timeout: %w", timeout, err.Error(), errdefs.ErrResourceExhausted)
	}
	return nil, err
}

// of runs a phase, and takes a digest of the images: before the first phase, and again after the last.
func (o *outcome) of(ctx context.Context, dir string, s verify.Subject,
	phase func(context.Context, verify.Subject) (*verify.Report, error), again bool) (err error) {
	if !again {
		if o.digest, err = digestOf(ctx, dir); err != nil {
			return err
		}
	}
	if s.Images, err = criu.OpenImages(dir); err != nil {
		return err
	}
	o.report, o.err = phase(ctx, s)
	if err := s.Images.Close(); err != nil || !again {
		return err
	}
	o.digest, err = digestOf(ctx, dir)
	return err
}

func digestOf(ctx context.Context, dir string) (string, error) {
	digest, err := restore.Digest(ctx, dir)
	return digest.String(), err
}

// over returns the report's error if it is only that there was no time.
func (o *outcome) over(ctx context.Context) error {
	if ctx.Err() != nil && errors.Is(o.err, ctx.Err()) {
		return o.err
	}
	return nil
}

// judge refuses what a phase has found, or on a node that only audits logs and counts it, and keeps the images that
// CRIU is to read in another form.
func (v *verification) judge(ctx context.Context, is *outcome) (*verify.Report, error) {
	countFindings(is.report.ByCheck)
	v.record.Unpermitted = v.record.Unpermitted || is.report.Unpermitted || is.report.Unreadable != nil
	refused, let := is.report.Judge(v.node.Audit)
	if unverified() {
		refused, is.err = nil, nil
	}
	switch {
	case refused != nil:
		return nil, refused
	case is.err != nil:
		return nil, is.err
	case let != nil:
		log.G(ctx).WithError(let).WithField("container", v.id).WithField("checkpoint", v.record.Image).
			Warn(`restoring what verification = "strict" would refuse`)
	}
	return is.report, v.node.Restores.WriteReplaced(v.record, is.report.Replaced)
}
