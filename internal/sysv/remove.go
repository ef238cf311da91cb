package sysv

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/namespace"
)

// Remove removes objects from the IPC namespace at path. One that is gone already is no error.
func Remove(path string, objects []Object) error {
	if len(objects) == 0 {
		return nil
	}
	return namespace.Within(path, unix.CLONE_NEWIPC, func() error {
		var errs []error
		for _, o := range objects {
			if err := remove(o); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EIDRM) {
				errs = append(errs, fmt.Errorf("remove %s: %w", o, err))
			}
		}
		return errors.Join(errs...)
	})
}

func remove(o Object) error {
	var errno unix.Errno
	switch o.Kind {
	case Segment:
		_, err := unix.SysvShmCtl(int(o.ID), unix.IPC_RMID, nil)
		return err
	case Queue:
		_, _, errno = unix.Syscall(unix.SYS_MSGCTL, uintptr(o.ID), unix.IPC_RMID, 0)
	case Semaphores:
		_, _, errno = unix.Syscall6(unix.SYS_SEMCTL, uintptr(o.ID), 0, unix.IPC_RMID, 0, 0, 0)
	}
	if errno != 0 {
		return errno
	}
	return nil
}
