package integration

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestRestoreSystemV restores a process with objects of System V IPC, which outlive it: in a new pod, and again in the
// same pod as often as it ends, as the kubelet does.
func TestRestoreSystemV(t *testing.T) {
	t.Parallel()
	for mode, config := range map[string]string{"eagerly": `lazy_pages = "off"`, "lazily": lazyOn} {
		t.Run(mode, func(t *testing.T) {
			n := harness.New(t, harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(config))
			img := workloadImage(t, n)
			before := n.Inventory(t)
			pod := n.Pod(t)
			c := pod.Run("db", img, workload("sysv", "4711"))
			counted := waitOK(t, c, 3)
			archive := checkpointOf(t, c)
			pod.Remove()

			pod = n.Pod(t)
			for range 3 {
				c = pod.Run(unique("db"), archive)
				requireOKContinues(t, c, counted)
				c.Stop(0)
				c.Remove()
				forgetLog(t, c)
			}
			// What another program has made in the pod meanwhile, and has left there, is in nobody's way and stays.
			other := pod.Run("other", img, workload("sysv", "4712"))
			waitOK(t, other, 1)
			other.Stop(0)
			other.Remove()
			forgetLog(t, other)
			c = pod.Run(unique("db"), archive)
			requireOKContinues(t, c, counted)
			if objects := c.Exec("cat", "/proc/sysvipc/shm"); strings.Count(objects, "471") != 2 {
				t.Errorf("segments:\n%s", objects)
			}
			pod.Remove()
			n.RequireNoLeak(t, before)
		})
	}
}

// TestRestoreSystemVBesideOthers: a checkpoint has nothing of another container's shared memory, and its restore takes
// nothing from one that runs.
func TestRestoreSystemVBesideOthers(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	pod := n.Pod(t)
	db := pod.Run("db", workloadImage(t, n), workload("sysv", "4711"))
	side := pod.Run("side", workloadImage(t, n), workload("sysv", "4712"))
	waitOK(t, db, 3)
	counted := waitOK(t, side, 3)
	archive := checkpointOf(t, side)
	content, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, []byte("content of 4711")) || !bytes.Contains(content, []byte("content of 4712")) {
		t.Error("the checkpoint has another container's shared memory, or not its own")
	}
	at := waitOK(t, db, 1)
	waitOK(t, db, at+2)

	// Its objects are there, and somebody runs who may use them.
	side.Stop(0)
	side.Remove()
	_, err = pod.TryCreate("side", archive)
	requireRefused(t, err, codes.FailedPrecondition, "in the way", `container "db"`, "pod of its own")
	waitOK(t, db, waitOK(t, db, 1)+2)
	pod.Remove()

	pod = n.Pod(t)
	requireOKContinues(t, pod.Run("side", archive), counted)
}
