package dump

import (
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/mounts"
)

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// removeDir removes a directory, after everything that is mounted below it was unmounted.
func removeDir(dir string) error {
	return removeDirs([]string{dir})[dir]
}

// removeDirs is removeDir for many, of which none is below another: the mounts are read once for all of them. What is kept is
// returned with the reason.
func removeDirs(dirs []string) map[string]error {
	kept := map[string]error{}
	at := map[string]string{} // the directory by its real path
	for _, dir := range dirs {
		real, err := mounts.RealPath(dir)
		if err != nil {
			kept[dir] = err
			continue
		}
		at[real] = dir
	}
	mounted, err := mounts.Detach(at)
	for real, dir := range at {
		if err != nil {
			kept[dir] = err
			continue
		}
		if where := mounted[real]; where != "" {
			kept[dir] = fmt.Errorf("%s is kept, something stays mounted at %s: %w", dir, where, errdefs.ErrUnavailable)
			continue
		}
		if err := os.RemoveAll(real); err != nil {
			kept[dir] = err
		}
	}
	return kept
}
