package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// exchanges exchanges two names in another container of the pod without a pause, by /proc/PID/root: the directory
// and the two names are the arguments.
func exchanges(args []string) error {
	if len(args) != 3 {
		return errors.New("exchanges: want a directory and two names")
	}
	dir := args[0]
	self, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	all, err := filepath.Glob("/proc/[0-9]*/root" + dir)
	if err != nil {
		return err
	}
	for _, found := range all {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(found[:len(found)-len(dir)])))
		if err != nil {
			return err
		}
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); err != nil || ns == self {
			continue
		}
		a, b := filepath.Join(found, args[1]), filepath.Join(found, args[2])
		for n, last := 0, time.Now(); ; n++ {
			if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
				return err
			}
			if time.Since(last) > tick {
				last = time.Now()
				fmt.Printf("ok %d exchanges\n", n)
			}
		}
	}
	return fmt.Errorf("exchanges: no other container has %s", dir)
}
