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
//
// It returns the paths that the spec has to mask as well.
func (n *Node) verify(ctx context.Context, id, dir string, spec *specs.Spec, record *restore.Record) (masked []string, err error) {
	before, err := restore.Digest(dir)
	if err != nil {
		return nil, err
	}
	images, err := criu.OpenImages(dir)
	if err != nil {
		return nil, err
	}
	defer images.Close()
	if err := verify.HostNamespaces(images, spec); err != nil {
		return nil, err
	}
	tcp := policy.TCP(record.TCP)
	report, err := verify.Images(images, spec, verify.Rules{AcceptTCP: tcp == policy.CloseTCP || tcp == policy.RestoreTCP})
	if err := n.judge(ctx, id, record, report, err); err != nil {
		return nil, err
	}
	if err := n.Restores.WriteReplaced(record, report.Replaced); err != nil {
		return nil, err
	}
	// No window: the images are in a read-only view or a private directory, and did not change meanwhile.
	after, err := restore.Digest(dir)
	if err != nil {
		return nil, err
	}
	if before != after {
		return nil, fmt.Errorf("CRIU images changed while they were verified, from %s to %s: %w", before, after, errdefs.ErrFailedPrecondition)
	}
	record.ImagesDigest = after.String()
	return report.Masked, nil
}

// verifyFiles compares the images with the new container's root file system, which has the checkpoint's changes
// now and which nothing else can change until CRIU runs, and with the volumes as they are.
func (n *Node) verifyFiles(ctx context.Context, id, dir string, spec *specs.Spec, root string, record *restore.Record) error {
	images, err := criu.OpenImages(dir)
	if err != nil {
		return err
	}
	defer images.Close()
	report, err := verify.Links(images, spec, root)
	if err := n.judge(ctx, id, record, report, err); err != nil {
		return err
	}
	if err := verify.MountKinds(spec, root); err != nil {
		return err
	}
	modes, err := verify.Directories(images)
	if err := n.judge(ctx, id, record, &verify.Report{}, err); err != nil {
		return err
	}
	if err := restore.SetModes(root, modes); err != nil {
		return err
	}
	report, err = verify.Access(images, spec, root)
	if err := n.judge(ctx, id, record, report, err); err != nil {
		return err
	}
	err = verify.Unchanged(images, root)
	if errdefs.IsFailedPrecondition(err) {
		return err // nothing that an audit could let through: CRIU would fail
	}
	return n.judge(ctx, id, record, &verify.Report{}, err)
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
	if !n.Audit || !(errdefs.IsPermissionDenied(err) || errdefs.IsInvalidArgument(err)) {
		return err
	}
	log.G(ctx).WithError(err).WithField("container", id).WithField("checkpoint", record.Image).
		Warn(`restoring what verification = "strict" would refuse`)
	return nil
}
