package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// After is the second phase of a verification: all that is about mounts and paths. Links decide where these are, so root is where the new
// container's root file system is mounted, with the checkpoint's changes, and /dev/shm has what the checkpoint brings into it; the
// directories have the modes that [Before] has reported. The report says what a restore would give beyond the pod's grants, and which
// images CRIU has to read in another form: CRIU mounts what the spec says, also the volumes that the checkpoint has not. (The kubelet
// gives every container a termination log and most a service account token, which no container of Podman had.)
//
// The error is about what no node lets through, whether it audits or not: images of which the mounts cannot be forced, of class
// errdefs.ErrInvalidArgument, a checkpoint that cannot be restored in this pod, of class errdefs.ErrFailedPrecondition, and the
// context's. The report is never nil.
func After(ctx context.Context, s Subject, root string) (*Report, error) {
	r := &Report{}
	v, err := newVerifier(ctx, s, r)
	if err != nil {
		r.unless(err) //nolint:errcheck // counted; without the processes nothing can be said of the mounts
		return r, err
	}
	base, err := place.OpenDir(root)
	if err != nil {
		return r, fmt.Errorf("root file system of the new container: %w", err)
	}
	err = v.after(&place.Mount{At: "/", Kind: place.Root, Base: base})
	if v.over != nil {
		return r, v.over
	}
	return r, err
}

// after is After with a root file system, which it closes.
func (v *verifier) after(root *place.Mount) error {
	tree, err := v.mountpoints(root)
	if err != nil {
		root.Base.Close()
		v.report.unless(err) //nolint:errcheck // counted; CRIU must not mount by the checkpoint's word
		return err
	}
	table, err := v.table(tree, root)
	if err != nil {
		return err
	}
	defer table.Close()
	o, err := newOpenFiles(v)
	if err != nil {
		return v.report.unless(err)
	}
	c := &container{openFiles: o, table: table, places: map[*openFile]place.Place{}}
	// Files and sockets are in one image: what the first phase has changed in it is changed here as well.
	for _, check := range []func() error{c.connections, c.paths, c.deadProcesses, c.deleted, c.sockets, c.ttys, c.mapped, c.access} {
		if err := errors.Join(check(), v.ended()); err != nil {
			return errors.Join(v.report.unless(err), c.replaceFiles())
		}
	}
	if err := c.replaceFiles(); err != nil {
		return err
	}
	if err := v.mountKinds(root); err != nil {
		return err
	}
	return c.unchanged()
}
