package cri

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/restore"
	"github.com/cri-restore/cri-restore/internal/verify"
)

// verification is that of one checkpoint against one container, whose ID it has for the log.
type verification struct {
	node   *Node
	id     string
	dir    string // with the images
	record *restore.Record
	verify.Subject
}

// before is the first phase. What is compared is what CRIU will read: the record gets a digest of it. It returns the modes
// of the root file system's directories.
func (v *verification) before(ctx context.Context) (map[string]uint32, error) {
	digest, err := restore.Digest(v.dir)
	if err != nil {
		return nil, err
	}
	v.record.ImagesDigest = digest.String()
	tcp := policy.TCP(v.record.TCP)
	v.Rules = verify.Rules{AcceptTCP: tcp == policy.CloseTCP || tcp == policy.RestoreTCP}
	report, err := v.judge(ctx, func() (*verify.Report, error) { return verify.Before(ctx, v.Subject) })
	if err != nil {
		return nil, err
	}
	return report.Directories, nil
}

// after is the second phase, with the root file system, which has the checkpoint's changes now and which nothing else can change
// until CRIU runs, and the volumes as they are. It returns the paths that the spec has to mask as well.
func (v *verification) after(ctx context.Context, mounts []mount.Mount, rootfs string, modes map[string]uint32) (masked []string, err error) {
	err = restore.InspectRootfs(mounts, rootfs, func(root string) error {
		if err := restore.SetModes(root, modes); err != nil {
			return err
		}
		report, err := v.judge(ctx, func() (*verify.Report, error) { return verify.After(ctx, v.Subject, root) })
		if err == nil {
			masked = report.Masked
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	digest, err := restore.Digest(v.dir)
	if err != nil {
		return nil, err
	}
	// They are in a read-only view or a private directory.
	if v.record.ImagesDigest != digest.String() {
		return nil, fmt.Errorf("CRIU images changed while they were verified, from %s to %s: %w", v.record.ImagesDigest, digest, errdefs.ErrFailedPrecondition)
	}
	return masked, nil
}

// judge refuses what a phase has found, or on a node that only audits logs and counts it, and keeps the images that CRIU is
// to read in another form.
func (v *verification) judge(ctx context.Context, phase func() (*verify.Report, error)) (_ *verify.Report, err error) {
	if v.Images, err = criu.OpenImages(v.dir); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.Images.Close()) }()
	report, err := phase()
	countFindings(report.ByCheck)
	refused, let := report.Judge(v.node.Audit)
	switch {
	case refused != nil:
		return nil, refused
	case err != nil:
		return nil, err
	case let != nil:
		log.G(ctx).WithError(let).WithField("container", v.id).WithField("checkpoint", v.record.Image).
			Warn(`restoring what verification = "strict" would refuse`)
	}
	return report, v.node.Restores.WriteReplaced(v.record, report.Replaced)
}
