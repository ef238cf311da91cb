package dump

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
	"golang.org/x/sys/unix"
)

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// removeDir removes a directory, after everything that is mounted below it was unmounted.
func removeDir(dir string) error {
	kept, err := removeDirs([]string{dir})
	return errors.Join(err, kept[dir])
}

// removeDirs is removeDir for many, of which none is below another: the mounts are read once for all of them. What is kept is
// returned with the reason.
func removeDirs(dirs []string) (kept map[string]error, err error) {
	kept = map[string]error{}
	at := map[string]string{} // the directory by its path as the kernel lists it
	for _, dir := range dirs {
		parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			kept[dir] = err
			continue
		}
		at[filepath.Join(parent, filepath.Base(dir))] = dir
	}
	mounted := map[string]string{} // where, by the real path of the directory
	for left := math.MaxInt; len(at) > 0; {
		mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return above(i.Mountpoint, at) == "", false })
		if err != nil {
			return nil, err
		}
		clear(mounted)
		for _, m := range mounts {
			mounted[above(m.Mountpoint, at)] = m.Mountpoint
		}
		if len(mounts) == 0 || len(mounts) >= left {
			break
		}
		left = len(mounts)
		for _, m := range slices.Backward(mounts) {
			_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // seen in the next round
		}
	}
	for real, dir := range at {
		if where := mounted[real]; where != "" {
			kept[dir] = fmt.Errorf("%s is kept, something stays mounted at %s: %w", dir, where, errdefs.ErrUnavailable)
			continue
		}
		if err := os.RemoveAll(real); err != nil {
			kept[dir] = err
		}
	}
	return kept, nil
}

// above returns the one of the directories that is the path or above it, "" if there is none.
func above(path string, dirs map[string]string) string {
	for {
		if _, ok := dirs[path]; ok {
			return path
		}
		parent := filepath.Dir(path)
		if parent == path {
			return ""
		}
		path = parent
	}
}
