package pageserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// Program is the name of the supervisor's program, which is installed beside containerd.
const Program = "restore-pages"

// readyTimeout bounds the time until CRIU listens, which takes some 50 ms.
const readyTimeout = 10 * time.Second

// Config says what a page server serves.
type Config struct {
	// Program is the path of the supervisor, CRIU that of criu.
	Program, CRIU string
	// Container is the ID of the container, whose processes have its name in their cgroups.
	Container string
	// Images is the directory that CRIU restores from, Work the one in which it works: restorer and
	// page server meet there.
	Images, Work string
}

// Start starts a page server and returns when it can be connected to. On an error nothing is left of it.
func Start(ctx context.Context, c Config) (_ *Server, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout,
		fmt.Errorf("no answer after %v: %w", readyTimeout, errdefs.ErrUnavailable))
	defer cancel()
	for _, stale := range []string{socketFile, resultFile} {
		if err := os.Remove(filepath.Join(c.Work, stale)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("page server: %w", err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("page server: %w", err)
	}
	defer r.Close()
	pidfd := -1
	cmd := exec.CommandContext(context.WithoutCancel(ctx), c.Program, "-container", c.Container, "-criu", c.CRIU,
		"-images", c.Images, "-work", c.Work)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{w}
	// A session of its own: what is done to containerd's does not reach it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, fmt.Errorf("page server: %w", err)
	}
	go func() { _ = cmd.Wait() }() // its result is in a file, for whoever asks
	if pidfd < 0 {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("page server: no pidfd, the kernel is too old: %w", errdefs.ErrNotImplemented)
	}
	s := &Server{pidfd: pidfd, work: c.Work}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
			s.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var pid int
	if _, err := fmt.Fscanf(r, ready, &pid); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("page server: %w", context.Cause(ctx))
		}
		why := "it ended without a word"
		if result, rerr := Outcome(c.Work); rerr == nil && result.Lost != "" {
			why = result.Lost
		}
		return nil, fmt.Errorf("page server: %s: %w", strings.TrimSpace(why), errdefs.ErrUnavailable)
	}
	s.pid = pid
	return s, nil
}

// ready is what the supervisor says when CRIU listens: CRIU's PID.
const ready = "ready %d\n"
