package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

func init() { modes["links"], modes["links-end"] = links, linksEnd }

// links opens files through links without a pause, in some threads of some processes. args are the number of processes
// and the links. One that cannot be followed for a moment ends it.
func links(args []string) error {
	count, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	failed := make(chan error, count)
	for range count - 1 {
		cmd := exec.Command("/proc/self/exe", append([]string{"links-end"}, args[1:]...)...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		go func() { failed <- fmt.Errorf("links: a process has ended: %w", cmd.Wait()) }()
	}
	opened := follow(args[1:], failed)
	return every(func(int) (string, error) {
		select {
		case err := <-failed:
			return "", err
		default:
			return fmt.Sprintf("links %d", opened.Load()), nil
		}
	})
}

// linksEnd is one of the other processes.
func linksEnd(args []string) error {
	failed := make(chan error, 1)
	follow(args, failed)
	return <-failed
}

// follow opens each of the links in a thread of its own.
func follow(names []string, failed chan<- error) *atomic.Int64 {
	var opened atomic.Int64
	for _, name := range names {
		go func() {
			runtime.LockOSThread()
			for {
				fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if errors.Is(err, unix.EINTR) {
					continue
				}
				if err != nil {
					failed <- fmt.Errorf("links: open %s: %w", name, err)
					return
				}
				unix.Close(fd)
				opened.Add(1)
				runtime.Gosched()
			}
		}()
	}
	return &opened
}
