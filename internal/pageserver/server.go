package pageserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/cgroup"
)

// stopTimeout is the patience with a supervisor that was told to end.
const stopTimeout = 10 * time.Second

// Server is a page server that runs, or has just ended.
type Server struct {
	pidfd int // of the supervisor
	pid   int // of CRIU, 0 if unknown
	work  string
}

// Find returns the page server of a work directory. The error is of class errdefs.ErrNotFound if none runs.
func Find(work string) (*Server, error) {
	fd, err := holder(work)
	if err != nil {
		return nil, err
	}
	return &Server{pidfd: fd, work: work}, nil
}

// PID is that of CRIU, 0 if the server was found again.
func (s *Server) PID() int { return s.pid }

// Close releases what this process has of the server, which runs on.
func (s *Server) Close() { unix.Close(s.pidfd) }

// Wait waits for the end of the server and returns what became of it. The error is the context's, or
// of class errdefs.ErrDataLoss if the supervisor was killed: memory may be missing, and CRIU may
// be without one who watches it, see [Kill].
func (s *Server) Wait(ctx context.Context) (*Result, error) {
	if err := cgroup.Wait(ctx, s.pidfd); err != nil {
		return nil, err
	}
	r, err := Outcome(s.work)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("the supervisor of the page server was killed: %w", errdefs.ErrDataLoss)
	}
	return r, err
}

// Stop ends the server, and before it the container's processes, if there are any.
func (s *Server) Stop(ctx context.Context) error {
	if err := unix.PidfdSendSignal(s.pidfd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop page server: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := cgroup.Wait(ctx, s.pidfd); err != nil {
		return fmt.Errorf("stop page server: %w", err)
	}
	return nil
}

// Stop ends the page server of a work directory, if one runs.
func Stop(ctx context.Context, work string) error {
	if _, err := os.Lstat(filepath.Join(work, lockFile)); errors.Is(err, fs.ErrNotExist) {
		return nil // there never was one
	}
	s, err := Find(work)
	if errdefs.IsNotFound(err) {
		return killCRIU(ctx, work)
	}
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Stop(ctx)
}

// Kill kills the container's processes, and then a CRIU that is left of a page server whose supervisor was killed.
func Kill(ctx context.Context, container, work string) error {
	_, err := cgroup.Kill(ctx, cgroup.Victims{ID: container, Spare: func(pid int) bool { return serves(pid, work) }})
	if err != nil {
		return err
	}
	return killCRIU(ctx, work)
}

// killCRIU kills the CRIU that is left of a page server whose supervisor was killed.
func killCRIU(ctx context.Context, work string) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !serves(pid, work) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		if serves(pid, work) {
			err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		if err == nil {
			err = cgroup.Wait(ctx, fd)
		}
		unix.Close(fd)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill page server %d: %w", pid, err)
		}
	}
	return nil
}

// serves reports whether a process looks like the CRIU of the work directory's page server. The
// directory's name has the restore's ID; what else looks so wants to be killed.
func serves(pid int, work string) bool {
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	args := strings.Split(string(content), "\x00")
	return slices.Contains(args, "lazy-pages") && slices.Contains(args, work)
}
