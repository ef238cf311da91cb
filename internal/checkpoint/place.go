package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Place gives a finished file its name, on the same file system, and never to the cost of another: the error is then of
// class errdefs.ErrAlreadyExists. After any error there is no file of that name that was not there before: a caller
// whose context has ended meanwhile, which is an error too, would not know of it.
func Place(ctx context.Context, file, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// Not every file system can; the other name of the file goes with its directory.
		err = os.Link(file, name)
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("checkpoint archive %s exists: remove it, or choose another name: %w", quote(name),
			errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return fmt.Errorf("checkpoint archive %s: %w", quote(name), err)
	}
	if err := syncDir(filepath.Dir(name)); err != nil {
		return errors.Join(fmt.Errorf("checkpoint archive %s: %w", quote(name), err), os.Remove(name))
	}
	// The disk may have taken its time.
	if err := ctx.Err(); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // FUSE
		return err
	}
	return nil
}
