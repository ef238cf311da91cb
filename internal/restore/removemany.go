package restore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// removals is how many directories are unmounted at a time: most of it is waiting for the kernel.
const removals = 16

// removedDir is where directories wait for their removal, which takes as long as the files in them are large and
// many. Nobody waits for it, and if it is cut short the next start goes on with it.
const removedDir = ".removed"

// removeMany is removeAll for many directories in a few parents, of which none is below another. The mounts are read
// once for all of them, and the files are removed in the background. How many directories there were is returned.
func (s *Store) removeMany(ctx context.Context, parents []string, unknown func(name string) bool) (int, error) {
	var errs []error
	at := map[string]string{} // the directory by its real path
	for _, parent := range parents {
		entries, err := os.ReadDir(parent)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if !e.IsDir() || !unknown(e.Name()) {
				continue
			}
			dir := filepath.Join(parent, e.Name())
			real, err := realPath(dir)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			at[real] = dir
		}
	}
	kept, err := detachMany(at)
	errs = append(errs, err)
	for real, dir := range at {
		if mounted := kept[real]; mounted != "" {
			errs = append(errs, fmt.Errorf("%s is kept, something stays mounted at %s: %w", dir, mounted, errdefs.ErrUnavailable))
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
			if err := removeAll(dir); err != nil {
				log.G(ctx).WithError(err).Warn("what earlier restores had left is not removed, the next start of containerd tries again")
			}
		})
	}
	return len(at), errors.Join(errs...)
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

// detachMany unmounts everything at or below the directories, and returns what stays mounted, by directory. With
// an error nothing is known to be unmounted: all directories are kept.
func detachMany(at map[string]string) (map[string]string, error) {
	if len(at) == 0 {
		return nil, nil
	}
	for left := math.MaxInt; ; {
		below, count, err := mountsByDirectory(at)
		if err != nil {
			kept := map[string]string{}
			for real := range at {
				kept[real] = "a place that cannot be told"
			}
			return kept, fmt.Errorf("read mounts: %w", err)
		}
		if count == 0 || count >= left {
			kept := map[string]string{}
			for real, mounts := range below {
				kept[real] = mounts[0]
			}
			return kept, nil
		}
		left = count
		// An error is seen in the next round: one mount may hide another, which is uncovered only then.
		var g errgroup.Group
		g.SetLimit(removals)
		for _, mounts := range below {
			g.Go(func() error {
				for _, m := range slices.Backward(mounts) {
					_ = unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
				}
				return nil
			})
		}
		_ = g.Wait()
	}
}

// mountsByDirectory returns the mount points at or below each directory, in mountinfo's order, and their number.
func mountsByDirectory(at map[string]string) (below map[string][]string, count int, err error) {
	below = map[string][]string{}
	_, err = mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		for dir := i.Mountpoint; len(dir) > 1; dir = dir[:max(0, strings.LastIndexByte(dir, '/'))] {
			if _, ok := at[dir]; ok {
				below[dir] = append(below[dir], i.Mountpoint)
				count++
				break
			}
		}
		return true, false
	})
	return below, count, err
}
