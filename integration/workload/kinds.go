package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func init() { modes["kinds"] = openKinds }

// held makes one kind of open file, and returns what checks that it still works.
type held func() (check func() error, err error)

var kinds = map[string]held{
	"tcp": tcpListener, "udp": udpPair, "unix": unixListener, "pair": socketPair, "inflight": inFlight, "fifo": fifo,
	"event": eventFile, "timer": timerFile, "inotify": inotifyFile, "memfd": memoryFile, "pidfd": pidFiles,
	"netlink": netlinkSocket, "proc": procFile, "deleted": deletedEntries, "owner": ownedSocket, "shut": shutSocket,
}

// openKinds holds the kinds of open files that it is told.
func openKinds(names []string) error {
	var checks []func() error
	for _, name := range names {
		hold := kinds[name]
		if hold == nil {
			return fmt.Errorf("kinds: no kind %q", name)
		}
		check, err := hold()
		if err != nil {
			return fmt.Errorf("kinds: %s: %w", name, err)
		}
		checks = append(checks, func() error {
			if err := check(); err != nil {
				return fmt.Errorf("kinds: %s: %w", name, err)
			}
			return nil
		})
	}
	return every(func(int) (string, error) {
		for _, check := range checks {
			if err := check(); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("kinds %d", len(checks)), nil
	})
}

func fifo() (func() error, error) {
	if err := syscall.Mkfifo("/tmp/kinds.fifo", 0o600); err != nil {
		return nil, err
	}
	fd, err := syscall.Open("/tmp/kinds.fifo", syscall.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if _, err := syscall.Write(fd, []byte("left")); err != nil {
		return nil, err
	}
	return func() error { return exchange(fd, fd) }, nil
}

func eventFile() (func() error, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return func() error {
		if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			return err
		}
		_, err := unix.Read(fd, make([]byte, 8))
		return err
	}, nil
}

func timerFile() (func() error, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	late := unix.Timespec{Sec: 100_000}
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: late, Value: late}, nil); err != nil {
		return nil, err
	}
	signals, err := unix.Signalfd(-1, &unix.Sigset_t{}, unix.SFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return func() error {
		var left unix.ItimerSpec
		if err := unix.TimerfdGettime(fd, &left); err != nil || left.Value.Sec == 0 || left.Interval != late {
			return fmt.Errorf("%+v are left: %w", left, err)
		}
		_, err := unix.FcntlInt(uintptr(signals), unix.F_GETFD, 0)
		return err
	}, nil
}

// inotifyFile watches a directory.
func inotifyFile() (func() error, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	const dir = "/dev/shm"
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE); err != nil {
		return nil, err
	}
	n := 0
	return func() error {
		n++
		name := fmt.Sprintf("%s/%d-%d", dir, os.Getpid(), n)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			return err
		}
		defer os.Remove(name)
		_, err := unix.Read(fd, make([]byte, 512))
		return err
	}, nil
}

func memoryFile() (func() error, error) {
	fd, err := unix.MemfdCreate("kinds", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	if _, err := unix.Pwrite(fd, []byte("content"), 5000); err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK); err != nil {
		return nil, err
	}
	return func() error {
		b := make([]byte, 7)
		if _, err := unix.Pread(fd, b, 5000); err != nil || string(b) != "content" {
			return fmt.Errorf("the memory file has %q: %w", b, err)
		}
		return nil
	}, nil
}

// pidFiles holds a living child and one that has ended.
func pidFiles() (func() error, error) {
	open := func(name string, args ...string) (int, *exec.Cmd, error) {
		cmd := exec.Command(name, args...)
		if err := cmd.Start(); err != nil {
			return 0, nil, err
		}
		fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
		return fd, cmd, err
	}
	living, _, err := open("/bin/sleep", "100000")
	if err != nil {
		return nil, err
	}
	dead, cmd, err := open("/bin/true")
	if err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return nil, err
	}
	return func() error {
		if err := unix.PidfdSendSignal(living, 0, nil, 0); err != nil {
			return err
		}
		if err := unix.PidfdSendSignal(dead, 0, nil, 0); !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("the child that has ended: %w", err)
		}
		return nil
	}, nil
}

func netlinkSocket() (func() error, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		return nil, err
	}
	return func() error {
		_, err := unix.Getsockname(fd)
		return err
	}, nil
}

func procFile() (func() error, error) {
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return nil, err
	}
	info, err := os.Open("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	return func() error {
		for _, f := range []*os.File{status, info} {
			if _, err := f.ReadAt(make([]byte, 64), 0); err != nil {
				return err
			}
		}
		_, err := dir.Seek(0, io.SeekStart)
		return err
	}, nil
}

// deletedEntries holds a file with holes, and a directory, that have no name any more.
func deletedEntries() (func() error, error) {
	f, err := os.Create("/tmp/kinds.deleted")
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt([]byte("content"), 100_000); err != nil {
		return nil, err
	}
	if err := os.Mkdir("/tmp/kinds.dir", 0o755); err != nil {
		return nil, err
	}
	d, err := os.Open("/tmp/kinds.dir")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Remove("/tmp/kinds.deleted"), os.Remove("/tmp/kinds.dir")); err != nil {
		return nil, err
	}
	return func() error {
		b := make([]byte, 7)
		if _, err := f.ReadAt(b, 100_000); err != nil || !strings.HasPrefix(string(b), "content") {
			return fmt.Errorf("the deleted file has %q: %w", b, err)
		}
		_, err := d.Stat()
		return err
	}, nil
}
