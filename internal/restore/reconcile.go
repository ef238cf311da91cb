package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"go.etcd.io/bbolt"
)

// Reconcile puts right what a crash left: directories, mounts and leases of
// restores that have no container, and restores that ended without a word. It
// runs when containerd starts, before any request, and touches only what bears
// a restore's ID.
func (s *Store) Reconcile(ctx context.Context, started func(ctx context.Context, container string) (bool,
	error)) error {
	known := map[string]bool{}
	cs, err := s.Containers.List(ctx, fmt.Sprintf("labels.%q", LabelID))
	if err != nil {
		return fmt.Errorf("list restored containers: %w", err)
	}
	var errs []error
	ended := 0
	for i := range cs {
		if _, ok := cs[i].Extensions[extensionRecord]; !ok {
			continue // its restore was not finished, or anybody's label
		}
		known[cs[i].Labels[LabelID]] = true
		r, err := Load(&cs[i])
		if err != nil || r.Ended || r.Draining {
			// A record of a newer plugin is left alone, and one whose memory is arriving waits for that.
			continue
		}
		if yes, err := started(ctx, cs[i].ID); err != nil || !yes {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, s.End(ctx, cs[i].ID))
		ended++
	}
	found, err := s.Leases.List(ctx, fmt.Sprintf("labels.%q", LabelID))
	if err != nil {
		errs = append(errs, fmt.Errorf("list leases of restores: %w", err))
	}
	removed, err := s.removeMany(ctx, []string{s.Dirs.State, s.Dirs.Root},
		func(name string) bool { return isID(name) && !known[name] })
	// The views go with their leases: garbage collection removes what nothing refers to.
	errs = append(errs, err, s.deleteLeases(ctx, found))
	if removed+ended+len(found) > 0 {
		log.G(ctx).WithField("directories", removed).WithField("leases", len(found)).WithField("ended", ended).
			Info("removed what earlier restores had left")
	}
	return errors.Join(errs...)
}

// deleteLeases deletes all leases in one transaction: each of its own would wait for the disk.
func (s *Store) deleteLeases(ctx context.Context, found []leases.Lease) error {
	if len(found) == 0 {
		return nil
	}
	var errs []error
	err := s.Transact(func(tx *bbolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		for _, l := range found {
			if err := s.Leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("lease %s: %w", l.ID, err))
			}
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}
