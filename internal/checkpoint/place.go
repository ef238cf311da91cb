package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Place gives a finished file its name, on the same file system, and never to the cost of another: the
// error is then of class errdefs.ErrAlreadyExists.
func Place(file, name string) error {
	err := unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// Not every file system can; the other name of the file goes with its directory.
		err = os.Link(file, name)
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("checkpoint archive %s exists: remove it, or choose another name: %w", quote(name), errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return fmt.Errorf("checkpoint archive %s: %w", quote(name), err)
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // FUSE
		return fmt.Errorf("checkpoint archive %s: %w", quote(name), err)
	}
	return nil
}
