package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// locks holds a lock of each kind, and looks whether another one could take them.
func locks([]string) error {
	kinds := map[string]func(fd uintptr) error{
		"flock": func(fd uintptr) error { return unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) },
		"POSIX": func(fd uintptr) error {
			return unix.FcntlFlock(fd, unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
		},
		"open file description": func(fd uintptr) error {
			return unix.FcntlFlock(fd, unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
		},
	}
	others := map[string]*os.File{} // opened before, since closing any descriptor gives up a POSIX lock
	for kind, lock := range kinds {
		held, err := os.Create("/locked " + kind)
		if err != nil {
			return err
		}
		if err := lock(held.Fd()); err != nil {
			return fmt.Errorf("locks: %s: %w", kind, err)
		}
		if others[kind], err = os.OpenFile(held.Name(), os.O_RDWR, 0); err != nil {
			return err
		}
		defer held.Close()
	}
	return every(func(int) (string, error) {
		for kind, other := range others {
			err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			if kind != "flock" {
				err = unix.FcntlFlock(other.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
			}
			if !errors.Is(err, unix.EAGAIN) {
				return "", fmt.Errorf("locks: another takes the lock %s: %w", kind, err)
			}
		}
		return "locks", nil
	})
}
