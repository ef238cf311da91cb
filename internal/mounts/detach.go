// Package mounts is what is mounted below directories that are about to be removed.
package mounts

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// atOnce is how many directories are unmounted at a time: most of it is waiting for the kernel.
const atOnce = 16

// RealPath resolves links in the parents of a path, which is how the kernel
// lists mount points. The path itself need not exist.
func RealPath(path string) (string, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return path, nil
	}
	return filepath.Join(parent, filepath.Base(path)), err
}

// Detach unmounts everything at or below the directories, and returns what stays mounted, by directory. With
// an error nothing is known to be unmounted: all directories are kept.
func Detach(at map[string]string) (map[string]string, error) {
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
		g.SetLimit(atOnce)
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
