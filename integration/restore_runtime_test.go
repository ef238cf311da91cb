package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestRestoreDefaultRuncRoot restores on a node whose handler has no options about runc's
// state (point 7).
func TestRestoreDefaultRuncRoot(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithSharedRuncRoot())
	archive, counted := countingCheckpoint(t, n)
	name := imageOf(t, n, archive)
	before := n.Inventory(t)
	pod := n.Pod(t)
	c := pod.Run("restored", name)
	requireContinues(t, c, counted)
	if _, err := os.Stat(filepath.Join("/run/containerd/runc/k8s.io", c.ID, "state.json")); err != nil {
		t.Errorf("runc's state in its default place: %v", err)
	}
	pod.Remove()
	n.RequireNoLeak(t, before)
}

// TestRestoreRuntimeOptions restores with a second handler, which has another runc and
// another root: the options that make it a restore are added to the handler's (point 7).
func TestRestoreRuntimeOptions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	calls, root, binary := filepath.Join(dir, "calls"), filepath.Join(dir, "root"), filepath.Join(dir, "other-runc")
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >> %s\nexec %s \"$@\"\n", calls,
		filepath.Join(harness.Require(t).Bin, "runc"))
	if err := os.WriteFile(binary, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	n := harness.New(t, harness.WithConfig(fmt.Sprintf(`
		[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.other]
		runtime_type = 'io.containerd.runc.v2'
		[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.other.options]
		BinaryName = '%s'
		Root = '%s'
	`, binary, root)))
	archive, counted := countingCheckpoint(t, n) // with the default handler
	name := imageOf(t, n, archive)

	pod := n.Pod(t, harness.PodHandler("other"))
	c := pod.Run("restored", name)
	counted = requireContinues(t, c, counted)
	if _, err := os.Stat(filepath.Join(root, "k8s.io", c.ID, "state.json")); err != nil {
		t.Errorf("runc's state in the handler's root: %v", err)
	}
	var restores []string
	for _, call := range strings.Split(readFile(t, calls), "\n") {
		if strings.Contains(call, " restore ") {
			restores = append(restores, call)
		}
	}
	if len(restores) != 1 || !strings.Contains(restores[0], c.ID) || !strings.Contains(restores[0], "--root "+root) {
		t.Errorf("restores by the handler's runc: %q, want one of %s", restores, c.ID)
	}
	// And back to the default handler.
	c.Exec("true")
	archive = checkpointOf(t, c)
	pod.Remove()
	if left, err := os.ReadDir(filepath.Join(root, "k8s.io")); err != nil || len(left) > 0 {
		t.Errorf("left in the handler's root: %v, error %v", left, err)
	}
	back := n.Pod(t).Run("back", imageOf(t, n, archive))
	requireContinuesAgain(t, back, counted, 1)
}
