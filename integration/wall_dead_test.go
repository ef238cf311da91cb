package integration

import (
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestWallDeadProcess: a file of procfs is open whose process has ended. It is honest, and has killed containerd.
func TestWallDeadProcess(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	// Process 1 waits for it: nothing of it is left.
	k := w.checkpoint(t, harness.Busybox, harness.Shell(`sleep 1 & exec 3</proc/$!/stat; wait; `+counting))
	w.all(t, twin("", k, always()))
}
