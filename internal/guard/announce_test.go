package guard

import (
	"errors"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// TestListen: who listens hears which process CRIU is, and who tells it waits for nobody.
func TestListen(t *testing.T) {
	dir := t.TempDir() + "/guard"
	check(t, announce(dir, os.Getpid())) // of an earlier plugin, which does not listen
	_, err := Arm(dir, "/bin/true", Facts{Container: containerID}, Paths{})
	check(t, err)
	check(t, announce(dir, os.Getpid())) // nobody hears it
	l, err := Listen(dir)
	check(t, err)
	check(t, announce(dir, os.Getpid()))
	fd, err := l.CRIU()
	check(t, err)
	check(t, unix.Close(fd))
	check(t, announce(dir, 1<<30))
	if _, err := l.CRIU(); err == nil || errdefs.IsNotFound(err) != errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a process that is not there: %v", err)
	}
	over := make(chan error)
	go func() {
		_, err := l.CRIU()
		over <- err
	}()
	check(t, l.Close())
	if err := <-over; !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
