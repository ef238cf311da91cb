package pageserver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// lock takes the lock that says that this process supervises the page server of the work directory.
// The kernel releases it with the process; the file must not be opened again in this process before.
func lock(work string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(work, lockFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		f.Close()
		return nil, fmt.Errorf("another page server uses %s: %w: %w", work, err, errdefs.ErrAlreadyExists)
	}
	return f, nil
}

// holder returns a pidfd of the process that holds the lock, or an error of class errdefs.ErrNotFound.
func holder(work string) (pidfd int, err error) {
	// To ask who holds a lock needs no right to write, which a disk that has become read-only does not give.
	f, err := os.OpenFile(filepath.Join(work, lockFile), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("page server: %w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("page server: %w", err)
	}
	defer f.Close()
	owner := func() (int, error) {
		l := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l); err != nil {
			return 0, fmt.Errorf("page server: %s: %w", lockFile, err)
		}
		if l.Type == unix.F_UNLCK || l.Pid <= 0 {
			return 0, fmt.Errorf("page server: it runs no more: %w", errdefs.ErrNotFound)
		}
		return int(l.Pid), nil
	}
	pid, err := owner()
	if err != nil {
		return 0, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return 0, fmt.Errorf("page server: it runs no more: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("page server: process %d: %w", pid, err)
	}
	// The PID was still the owner's when the pidfd was there: so the pidfd is the owner's.
	if again, err := owner(); err != nil || again != pid {
		unix.Close(fd)
		return 0, fmt.Errorf("page server: it has just ended: %w", errors.Join(err, errdefs.ErrNotFound))
	}
	return fd, nil
}
