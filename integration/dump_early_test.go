package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// paused returns a function that tells how often containerd has frozen a task since.
func paused(t *testing.T, n *harness.Node) func() int {
	t.Helper()
	events, errs := n.Client().EventService().Subscribe(t.Context(), `topic=="/tasks/paused"`)
	return func() (count int) {
		for {
			select {
			case <-events:
				count++
			case err := <-errs:
				t.Fatal(err)
			case <-time.After(300 * time.Millisecond): // events come after the answer
				return count
			}
		}
	}
}

// TestCheckpointRefusedEarly asks for checkpoints that cannot be, for a reason that can be seen before the container is
// frozen.
func TestCheckpointRefusedEarly(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	c := n.Pod(t).Run("counter", n.Image(harness.Busybox), harness.Counting())
	c.WaitCount(3)
	freezes := paused(t, n)

	name := func(bytes int) string { return filepath.Join(n.Dir(), strings.Repeat("n", bytes-4)+".tar") }
	requireRefused(t, c.TryCheckpoint(name(256)), codes.InvalidArgument, "256 bytes", "255", "choose a shorter one")
	log := c.LogFile()
	if err := os.Rename(log, log+".real"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(log+".real", log); err != nil {
		t.Fatal(err)
	}
	requireRefused(t, c.TryCheckpoint(name(255)), codes.FailedPrecondition, log, "symbolic link", "remove what is there")
	if got := freezes(); got != 0 {
		t.Errorf("the container was frozen %d times for nothing", got)
	}
	requireOnly(t, n.Dir())

	// What the error advises.
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	c.Checkpoint(name(255))
	if err := os.Rename(log+".real", log); err != nil {
		t.Fatal(err)
	}
	c.Checkpoint(name(254))
	if got := freezes(); got != 2 {
		t.Errorf("two checkpoints froze the container %d times", got)
	}
	requireOnly(t, n.Dir(), filepath.Base(name(254)), filepath.Base(name(255)))
}
