// Package criu is the CRIU binary: where it is, what version, its configuration
// file and its log.
package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// Find resolves the criu binary as runc finds it: the first executable regular
// file "criu" in the directories of path, a list as in $PATH; if path is empty,
// in those of the process's own PATH. Relative directories are passed over, as
// os/exec does, which runc uses. The error is of class errdefs.ErrNotFound.
func Find(path string) (string, error) {
	if path == "" {
		path = os.Getenv("PATH")
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		// With a slash in the name LookPath searches nothing, it only checks
		// that the file can be executed.
		file, err := exec.LookPath(filepath.Join(dir, "criu"))
		if err != nil {
			continue
		}
		fi, err := os.Stat(file)
		if err == nil && fi.Mode().IsRegular() {
			return file, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("no criu in PATH %q: install CRIU %s or newer, or put its directory on that PATH: %w",
		path, MinVersion, errdefs.ErrNotFound)
}
