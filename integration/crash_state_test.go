package integration

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestCrashLeavesRuncState: a runc that outlives its shim leaves its state after containerd has looked for it. It
// goes with the container, that of other containers stays.
func TestCrashLeavesRuncState(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	archive, counted := countingCheckpoint(t, n)
	before := n.Inventory(t)
	c, other := n.Pod(t).Run("victim", archive), n.Pod(t).Run("other", archive)
	requireContinues(t, c, counted)
	state, kept := filepath.Join(n.RuncRoot(), c.ID), filepath.Join(t.TempDir(), "state")
	if out, err := exec.Command("cp", "-a", state, kept).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	killProcess(t, "shim", shimOf(c))
	c.WaitExited()
	eventually(t, "the removal of runc's state by containerd", func() bool {
		_, err := os.Stat(state)
		return errors.Is(err, fs.ErrNotExist)
	})
	if out, err := exec.Command("cp", "-a", kept, state).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	c.Remove()
	forgetLog(t, c)
	if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("runc's state is still there: %v", err)
	}
	requireContinues(t, other, counted)
	forgetSockets(t, n, before)
	other.Pod.Remove()
	c.Pod.Remove()
	n.RequireNoLeak(t, before)
}
