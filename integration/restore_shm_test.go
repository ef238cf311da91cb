package integration

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// shmEntry is where a checkpoint has the files of /dev/shm.
const shmEntry = "devshm-checkpoint.tar"

// TestRestoreShm restores a program with files in /dev/shm, mapped and not: from an archive and an image, in another
// pod, again in the same one, and from a checkpoint of the restored container.
func TestRestoreShm(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	pod := n.Pod(t)
	c := pod.Run("shm", workloadImage(t, n), workload("shm"))
	counted := waitOK(t, c, 3)
	const list = "cd /dev/shm; stat -c '%n %a %u %g' dir workload.mapped dir/*"
	want := c.Exec("sh", "-c", list)
	archive := checkpointOf(t, c)
	waitOK(t, c, counted+3)
	pod.Remove()
	for generation, name := range []string{archive, imageOf(t, n, archive), ""} {
		if name == "" {
			name = checkpointOf(t, c)
			pod.Remove()
		}
		before := n.Inventory(t)
		pod = n.Pod(t)
		for _, life := range []string{"first", "again"} {
			c = pod.Run("restored", name, harness.Attempt(uint32(len(life))))
			waitOK(t, c, counted+3)
			if got := c.Exec("sh", "-c", list); got != want {
				t.Errorf("/dev/shm: got\n%swant\n%s", got, want)
			}
			if life == "first" {
				c.Remove()
			}
		}
		switch generation {
		case 0:
			pod.Remove()
			n.RequireNoLeak(t, before)
			pod = n.Pod(t)
			c = pod.Run("restored", name)
			counted = waitOK(t, c, counted+3)
		case 1:
			counted = waitOK(t, c, counted+3)
		}
	}
}

// TestRestoreShmOfOthers: what several containers share, and what is the node's, is in nobody's checkpoint; and no
// checkpoint's files come where another container uses the memory.
func TestRestoreShmOfOthers(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	img := workloadImage(t, n)
	has := func(archive string) bool {
		for _, e := range entriesOf(t, archive) {
			if strings.TrimPrefix(e.Name, "./") == shmEntry {
				return true
			}
		}
		return false
	}
	pod := n.Pod(t)
	c := pod.Run("shm", img, workload("shm"))
	counted := waitOK(t, c, 3)
	side := pod.Run("side", n.Image(harness.Busybox), harness.Shell("echo secret > /dev/shm/secret; sleep 100000"))
	if has(checkpointOf(t, c)) || has(checkpointOf(t, side)) {
		t.Error("a checkpoint has /dev/shm of a pod with two containers")
	}
	side.Stop(0)
	archive := checkpointOf(t, c)
	if !has(archive) {
		t.Fatal("the checkpoint lacks /dev/shm of a pod with one container that runs")
	}
	pod.Remove()
	pod = n.Pod(t)
	if empty := pod.Run("counter", n.Image(harness.Busybox), harness.Counting()); has(checkpointOf(t, empty)) {
		t.Error("a checkpoint has /dev/shm without files")
	}
	pod.Remove()
	pod = n.Pod(t, hostIPC)
	node := pod.Run("counter", n.Image(harness.Busybox),
		harness.Shell("echo x > /dev/shm/cri-restore-test; rm /dev/shm/cri-restore-test; "+
			`i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`))
	if has(checkpointOf(t, node)) {
		t.Error("a checkpoint has the node's /dev/shm")
	}
	pod.Remove()

	shared := n.Pod(t)
	shared.Run("side", n.Image(harness.Busybox), harness.Shell("sleep 100000"))
	before := n.Inventory(t)
	_, err := shared.TryCreate("refused", archive)
	requireRefused(t, err, codes.FailedPrecondition, "/dev/shm", `its container "side"`, "restore it in a pod of its own")
	n.RequireNoLeak(t, before)
	waitOK(t, n.Pod(t).Run("restored", archive), counted+3)
}
