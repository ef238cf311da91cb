// Package namespace does something in a namespace of another process.
package namespace

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/recovery"
)

// Within calls f in the namespace at path, which is of the kind that unix.CLONE_NEWUTS, CLONE_NEWIPC or CLONE_NEWNET
// stands for.
func Within(path string, kind int, f func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, nothing else runs on it.
		runtime.LockOSThread()
		done <- recovery.Do(context.Background(), "pod namespace", func() error {
			if err := unix.Setns(fd, kind); err != nil {
				return fmt.Errorf("enter %s: %w", path, err)
			}
			return f()
		})
	}()
	return <-done
}
