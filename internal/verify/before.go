package verify

import (
	"context"
	"errors"
)

// Before is the first of the two phases of a verification: all that needs no path. It compares the checkpoint's metadata and its
// images with what the processes of the new container were granted, before anything is done for the restore. The report says
// what a restore would give them beyond that, which images CRIU has to read in another form for the spec's value to come true, and
// the modes of directories, which [After] needs.
//
// The error is about what no node lets through, whether it audits or not: of class errdefs.ErrFailedPrecondition for a checkpoint that
// cannot be restored in this pod, and the context's. The report is never nil.
func Before(ctx context.Context, s Subject) (*Report, error) {
	r := &Report{}
	if s.Metadata != nil {
		if err := Compare(s.Metadata, s.Spec, s.Stdin); err != nil {
			return r, err
		}
	}
	v, err := newVerifier(ctx, s, r)
	if err != nil {
		return r, r.unless(err)
	}
	// The container would silently be somewhere else: nothing that an audit could let through, nor if it cannot be said.
	if err := hostNamespaces(s.Images, s.Spec); err != nil {
		return r, err
	}
	for _, check := range []func(*verifier) error{
		(*verifier).names,
		(*verifier).inventory,
		(*verifier).processNamespaces,
		(*verifier).credentials,
		(*verifier).seccomp,
		(*verifier).limits,
		(*verifier).openFiles,
		(*verifier).memory,
	} {
		if err = errors.Join(check(v), v.ended()); err != nil {
			break
		}
	}
	// Also of images that an audit lets through.
	if err := v.replaceEdited(); err != nil {
		return r, err
	}
	if v.over != nil {
		return r, v.over
	}
	return r, r.unless(err)
}
