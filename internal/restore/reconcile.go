package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// Reconcile puts right what a crash left: directories, mounts and leases of
// restores that have no container, and restores that ended without a word. It
// runs when containerd starts, before any request, and touches only what bears
// a restore's ID.
func (s *Store) Reconcile(ctx context.Context, started func(ctx context.Context, container string) (bool, error)) error {
	known := map[string]bool{}
	cs, err := s.Containers.List(ctx, fmt.Sprintf("labels.%q", LabelID))
	if err != nil {
		return fmt.Errorf("list restored containers: %w", err)
	}
	var errs []error
	ended := 0
	for i := range cs {
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
	leases, err := s.Leases.List(ctx, fmt.Sprintf("labels.%q", LabelID))
	if err != nil {
		errs = append(errs, fmt.Errorf("list leases of restores: %w", err))
	}
	removed := 0
	for _, dir := range []string{s.Dirs.State, s.Dirs.Root} {
		n, err := removeUnknown(dir, known)
		removed += n
		errs = append(errs, err)
	}
	// The views go with their leases: garbage collection removes what nothing refers to.
	for _, l := range leases {
		if err := s.Leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("lease %s: %w", l.ID, err))
		}
	}
	if removed+ended+len(leases) > 0 {
		log.G(ctx).WithField("directories", removed).WithField("leases", len(leases)).WithField("ended", ended).
			Info("removed what earlier restores had left")
	}
	return errors.Join(errs...)
}

// removeUnknown removes the directories of restores that no container has.
func removeUnknown(dir string, known map[string]bool) (int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var (
		errs []error
		n    int
	)
	for _, e := range entries {
		if !isID(e.Name()) || !e.IsDir() || known[e.Name()] {
			continue
		}
		errs = append(errs, removeAll(filepath.Join(dir, e.Name())))
		n++
	}
	return n, errors.Join(errs...)
}
