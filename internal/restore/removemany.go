package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/containerd/log"

	"github.com/cri-restore/cri-restore/internal/mounts"
	"github.com/cri-restore/cri-restore/internal/recovery"
)

// removedDir is where directories wait for their removal, which takes as long as the files in them are large and
// many. Nobody waits for it, and if it is cut short the next start goes on with it.
const removedDir = ".removed"

// removeMany is mounts.Remove for many directories in a few parents, of which none is below another. The mounts are
// read once for all of them, and the files are removed in the background. How many directories there were is returned.
func (s *Store) removeMany(ctx context.Context, parents []string, unknown func(name string) bool) (int, error) {
	var errs []error
	var dirs []string
	for _, parent := range parents {
		entries, err := os.ReadDir(parent)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if e.IsDir() && unknown(e.Name()) {
				dirs = append(dirs, filepath.Join(parent, e.Name()))
			}
		}
	}
	kept := mounts.Free(dirs)
	for _, dir := range dirs {
		if err := kept[dir]; err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, setAside(dir))
	}
	for _, parent := range parents {
		dir := filepath.Join(parent, removedDir)
		if _, err := os.Lstat(dir); err != nil {
			continue // nothing, now or from an earlier time
		}
		s.background.Go(func() {
			if err := recovery.Do(ctx, "remove earlier restores", func() error { return mounts.Remove(dir) }); err != nil {
				log.G(ctx).WithError(err).Warn("what earlier restores had left is not removed, the next start of containerd " +
					"tries again")
			}
		})
	}
	return len(dirs), errors.Join(errs...)
}

// Wait waits until the files of what Reconcile has found are removed, or cannot be.
func (s *Store) Wait() { s.background.Wait() }

// setAside moves a directory to where it waits for its removal.
func setAside(dir string) error {
	aside := filepath.Join(filepath.Dir(dir), removedDir)
	if err := os.Mkdir(aside, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.Rename(dir, filepath.Join(aside, filepath.Base(dir)))
}
