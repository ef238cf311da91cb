package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// criuFile is a FIFO by which the guard tells containerd which process CRIU is.
const criuFile = "criu"

// announce tells who listens which process CRIU is. It may be nobody, after a restart of containerd.
func (g *guard) announce() error {
	criu, err := parent()
	if err != nil {
		return err
	}
	return announce(g.dir, criu)
}

func announce(dir string, pid int) error {
	f, err := os.OpenFile(filepath.Join(dir, criuFile), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("tell containerd which process CRIU is: %w", err)
	}
	_, err = fmt.Fprintln(f, pid)
	return errors.Join(err, f.Close())
}

// Listener hears which process CRIU is.
type Listener struct{ fifo *os.File }

// Listen is called before CRIU begins, and after [Arm].
func Listen(dir string) (*Listener, error) {
	// For writing, too: otherwise it would be at its end before anybody has begun to write.
	f, err := os.OpenFile(filepath.Join(dir, criuFile), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("guard of the restore: %w", err)
	}
	return &Listener{f}, nil
}

// Close ends the waiting for CRIU to begin. It may be called while another goroutine waits.
func (l *Listener) Close() error { return l.fifo.Close() }

// CRIU waits until CRIU has begun to make processes, and opens it (pidfd_open(2)). The error is of class
// errdefs.ErrNotFound if it has ended already, and os.ErrClosed if that was not waited for.
func (l *Listener) CRIU() (pidfd int, err error) {
	var pid int
	if _, err := fmt.Fscanln(l.fifo, &pid); err != nil {
		return -1, fmt.Errorf("guard of the restore: which process CRIU is: %w", err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return -1, fmt.Errorf("CRIU, process %d: %w", pid, err)
	}
	return fd, nil
}
