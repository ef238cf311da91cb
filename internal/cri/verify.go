package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/restore"
	"github.com/cri-restore/cri-restore/internal/verify"
)

// verify compares the CRIU images with the container's final OCI spec, and keeps the images that CRIU is
// to read in another form. What it has compared is what CRIU will read: the record has a
// digest of it.
//
// On a node that only audits, what would be refused is logged and counted. A namespace that
// does not fit is refused there too: the container would silently be somewhere else.
func (n *Node) verify(ctx context.Context, id, dir string, spec *specs.Spec, record *restore.Record) error {
	before, err := restore.Digest(dir)
	if err != nil {
		return err
	}
	images, err := criu.OpenImages(dir)
	if err != nil {
		return err
	}
	defer images.Close()
	if err := verify.HostNamespaces(images, spec); err != nil {
		return err
	}
	tcp := policy.TCP(record.TCP)
	report, err := verify.Images(images, spec, verify.Rules{AcceptTCP: tcp == policy.CloseTCP || tcp == policy.RestoreTCP})
	if err := n.judge(ctx, id, record, report, err); err != nil {
		return err
	}
	record.ImagesDigest = before.String()
	return n.Restores.WriteReplaced(record, report.Replaced)
}

// sameImages checks that the images did not change while they were verified. They are in a read-only view or a private
// directory.
func sameImages(dir string, record *restore.Record) error {
	after, err := restore.Digest(dir)
	if err != nil {
		return err
	}
	if record.ImagesDigest != after.String() {
		return fmt.Errorf("CRIU images changed while they were verified, from %s to %s: %w", record.ImagesDigest, after, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// verifyMounts is verify for the mounts. It returns the paths that the spec has to mask as well.
func (n *Node) verifyMounts(ctx context.Context, id string, images *criu.Images, spec *specs.Spec, root string, record *restore.Record) ([]string, error) {
	report, err := verify.Mounts(images, spec, root)
	if errdefs.IsFailedPrecondition(err) {
		return nil, err // nothing that an audit could let through
	}
	if err := n.judge(ctx, id, record, report, err); err != nil {
		return nil, err
	}
	return report.Masked, n.Restores.WriteReplaced(record, report.Replaced)
}

// verifyFiles compares the images with the new container's root file system, which has the checkpoint's changes
// now and which nothing else can change until CRIU runs, and with the volumes as they are. It returns the paths that the
// spec has to mask as well.
func (n *Node) verifyFiles(ctx context.Context, id, dir string, spec *specs.Spec, root string, record *restore.Record) (masked []string, err error) {
	images, err := criu.OpenImages(dir)
	if err != nil {
		return nil, err
	}
	defer images.Close()
	if masked, err = n.verifyMounts(ctx, id, images, spec, root, record); err != nil {
		return nil, err
	}
	report, err := verify.Links(images, spec, root)
	if err := n.judge(ctx, id, record, report, err); err != nil {
		return nil, err
	}
	if err := verify.MountKinds(spec, root); err != nil {
		return nil, err
	}
	modes, err := verify.Directories(images)
	if err := n.judge(ctx, id, record, &verify.Report{}, err); err != nil {
		return nil, err
	}
	if err := restore.SetModes(root, modes); err != nil {
		return nil, err
	}
	report, err = verify.Access(images, spec, root)
	if err := n.judge(ctx, id, record, report, err); err != nil {
		return nil, err
	}
	err = verify.Unchanged(images, root)
	if errdefs.IsFailedPrecondition(err) {
		return nil, err // nothing that an audit could let through: CRIU would fail
	}
	return masked, n.judge(ctx, id, record, &verify.Report{}, err)
}

// judge refuses what was found, or on a node that only audits logs and counts it.
func (n *Node) judge(ctx context.Context, id string, record *restore.Record, report *verify.Report, err error) error {
	if err != nil {
		report.Unreadable(err)
	} else {
		err = report.Err()
	}
	countFindings(report.ByCheck)
	if err == nil {
		return nil
	}
	if !n.Audit || report.Always() || !errdefs.IsPermissionDenied(err) && !errdefs.IsInvalidArgument(err) {
		return err
	}
	log.G(ctx).WithError(err).WithField("container", id).WithField("checkpoint", record.Image).
		Warn(`restoring what verification = "strict" would refuse`)
	return nil
}
