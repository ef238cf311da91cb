// Package regular is a regular file in a place into which others write: opened without following a link or waiting for
// a FIFO, and read no longer than a request lasts.
package regular

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// flags do not follow a link, and do not wait for the writer of a FIFO that has taken the file's place meanwhile.
const flags = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK

// Open opens a regular file and nothing else, and returns its size. The error is of class errdefs.ErrInvalidArgument if
// the name is something else's, a link's too, and of errdefs.ErrNotFound and fs.ErrNotExist if it is nobody's.
func Open(name string) (*os.File, int64, error) {
	return opened(func() (fs.FileInfo, error) { return os.Lstat(name) },
		func() (*os.File, error) { return os.OpenFile(name, flags, 0) })
}

// OpenIn is [Open] for a name below a directory that is open.
func OpenIn(root *os.Root, name string) (*os.File, int64, error) {
	return opened(func() (fs.FileInfo, error) { return root.Lstat(name) },
		func() (*os.File, error) { return root.OpenFile(name, flags, 0) })
}

func opened(look func() (fs.FileInfo, error), open func() (*os.File, error)) (*os.File, int64, error) {
	// Looked at before it is opened: opening a device can act on it.
	seen, err := look()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, 0, err
	}
	if !seen.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("not a regular file but %s: %w", seen.Mode().Type(), errdefs.ErrInvalidArgument)
	}
	f, err := open()
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && !os.SameFile(seen, fi) {
		err = fmt.Errorf("was replaced while it was opened: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}
