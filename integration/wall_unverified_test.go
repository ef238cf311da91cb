package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// switchUnverified switches the verification off in a containerd that was built to be tested so (internal/cri).
const switchUnverified = "CRI_RESTORE_TEST_UNVERIFIED"

// TestWallSwitch: no containerd but the one for these tests has the switch.
func TestWallSwitch(t *testing.T) {
	t.Parallel()
	w := newWall(t, harness.WithEnv(switchUnverified+"=1"))
	for name, want := range map[string]bool{"containerd": false, "test/containerd": true} {
		program, err := os.ReadFile(filepath.Join(w.n.Tools().Bin, name))
		if err != nil {
			t.Fatalf("%v: run make build build-test", err)
		}
		if has := bytes.Contains(program, []byte(switchUnverified)); has != want {
			t.Errorf("%s has the switch: %t, want %t", name, has, want)
		}
	}
	k := w.checkpoint(t, harness.Busybox, harness.Mount(volumeWith(t, 0), "/mnt", false),
		harness.Shell(readsAndWrites("/mnt/d/victim")))
	pod := volumeAt("/mnt", false, linkInstead(openedByCRIU(w.secrets)))
	w.try(t, w.n.Pod(t), attack("link", k, pod, stop{}), refusedWith("symbolic link"))
}
