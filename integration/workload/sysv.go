package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() { modes["sysv"] = systemV }

// systemV counts in a shared memory segment, a message queue and a semaphore of System V IPC, which have the key that
// is given. What is there when it begins is of an earlier life, and begins anew.
func systemV(args []string) error {
	if len(args) != 1 {
		return errors.New("sysv takes a key")
	}
	key, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	id, err := unix.SysvShmGet(key, 1<<16, unix.IPC_CREAT|0o600)
	if err != nil {
		return err
	}
	area, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		return err
	}
	copy(area[8:], fmt.Sprintf("content of %d", key))
	binary.LittleEndian.PutUint64(area, 0)
	queue, _, errno := unix.Syscall(unix.SYS_MSGGET, uintptr(key), unix.IPC_CREAT|0o600, 0)
	if errno != 0 {
		return errno
	}
	set, _, errno := unix.Syscall(unix.SYS_SEMGET, uintptr(key), 1, unix.IPC_CREAT|0o600)
	if errno != 0 {
		return errno
	}
	const setVal, getVal = 16, 12 // linux/sem.h
	type message struct{ kind, n int64 }
	return every(func(n int) (string, error) {
		if was := binary.LittleEndian.Uint64(area); was != uint64(n-1) {
			return "", fmt.Errorf("sysv: the segment has %d, want %d", was, n-1)
		}
		binary.LittleEndian.PutUint64(area, uint64(n))
		if n > 1 {
			var m message
			_, _, errno := unix.Syscall6(unix.SYS_MSGRCV, queue, uintptr(unsafe.Pointer(&m)), 8, 0, unix.IPC_NOWAIT, 0)
			if errno != 0 || m.n != int64(n-1) {
				return "", fmt.Errorf("sysv: the queue has %d, want %d: %w", m.n, n-1, errno)
			}
			if v, _, errno := unix.Syscall6(unix.SYS_SEMCTL, set, 0, getVal, 0, 0, 0); errno != 0 || int(v) != (n-1)%30000 {
				return "", fmt.Errorf("sysv: the semaphore has %d, want %d: %w", v, n-1, errno)
			}
		}
		m := message{1, int64(n)}
		if _, _, errno := unix.Syscall6(unix.SYS_MSGSND, queue, uintptr(unsafe.Pointer(&m)), 8, 0, 0, 0); errno != 0 {
			return "", errno
		}
		if _, _, errno := unix.Syscall6(unix.SYS_SEMCTL, set, 0, setVal, uintptr(n%30000), 0, 0); errno != 0 {
			return "", errno
		}
		return "sysv", nil
	})
}
