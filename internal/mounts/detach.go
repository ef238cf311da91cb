// Package mounts is what is mounted below directories and has to go before they are removed, and their removal.
package mounts

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
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
	kept, err := detach(func(mountpoint string) (string, bool) {
		for dir := mountpoint; len(dir) > 1; dir = dir[:max(0, strings.LastIndexByte(dir, '/'))] {
			if _, ok := at[dir]; ok {
				return dir, true
			}
		}
		return "", false
	})
	if err != nil {
		kept = map[string]string{}
		for real := range at {
			kept[real] = "a place that cannot be told"
		}
	}
	return kept, err
}

// Free is [Detach] for directories that are going to be removed, by whatever path, of which none is below another. The
// mounts are read once for all of them. It returns those that are to be kept, with the reason.
func Free(dirs []string) map[string]error {
	kept := map[string]error{}
	at := map[string]string{} // the directory by its real path
	for _, dir := range dirs {
		real, err := RealPath(dir)
		if err != nil {
			kept[dir] = err
			continue
		}
		at[real] = dir
	}
	mounted, err := Detach(at)
	for real, dir := range at {
		switch where := mounted[real]; {
		case err != nil:
			kept[dir] = err
		case where != "":
			kept[dir] = fmt.Errorf("%s is kept, something is mounted below it and stays, at %s: %w", dir, where,
				errdefs.ErrUnavailable)
		}
	}
	return kept
}

// Below unmounts everything that is mounted at dir or below it, the deepest first. A recursive delete of dir is safe
// only afterwards: it would otherwise go on into whatever is mounted there.
func Below(dir string) error { return Free([]string{dir})[dir] }

// Remove removes a directory in which there may be mounts. Nothing is removed where something stays mounted.
func Remove(dir string) error {
	if err := Below(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Where unmounts every mount whose mount point is chosen.
func Where(chosen func(mountpoint string) bool) error {
	kept, err := detach(func(mountpoint string) (string, bool) { return "", chosen(mountpoint) })
	if where := kept[""]; where != "" {
		err = errors.Join(err, fmt.Errorf("something stays mounted at %s: %w", where, errdefs.ErrUnavailable))
	}
	return err
}

// detach unmounts every mount that belongs to a group, the last one listed first, groups beside each other. It returns
// the first mount point of each group that stays.
//
// mountinfo lists mounts in the order in which they were made, which need not be
// that in which they were put into place: one may hide another that is listed
// later, and is uncovered only when the first is gone. Hence as many rounds as it takes.
func detach(group func(mountpoint string) (string, bool)) (map[string]string, error) {
	for left := math.MaxInt; ; {
		groups, count := map[string][]string{}, 0
		_, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
			if g, ok := group(i.Mountpoint); ok {
				groups[g] = append(groups[g], i.Mountpoint)
				count++
			}
			return true, false
		})
		if err != nil {
			return nil, fmt.Errorf("read mounts: %w", err)
		}
		if count == 0 || count >= left {
			kept := map[string]string{}
			for name, mounts := range groups {
				kept[name] = mounts[0]
			}
			return kept, nil
		}
		left = count
		// An error is seen in the next round: one mount may hide another, which is uncovered only then.
		var g errgroup.Group
		g.SetLimit(atOnce)
		for _, mounts := range groups {
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
