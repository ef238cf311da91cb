package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestDumpStopped refuses to checkpoint a container with a stopped process, for which CRIU would wait without end,
// before the container stands still. When the process goes on, the checkpoint is taken.
func TestDumpStopped(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	c := pod.Run("counter", n.Image(harness.Busybox),
		harness.Shell(`sleep 100000 & echo $! > /child; kill -STOP $!; i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`))
	counted := c.WaitCount(3)
	before := n.Inventory(t)
	err := c.TryCheckpoint(filepath.Join(n.Dir(), "stopped.tar"))
	child := strings.TrimSpace(c.Exec("cat", "/child"))
	requireRefused(t, err, codes.FailedPrecondition, "process "+child+" (", "is stopped", "kill -CONT "+child)
	n.RequireNoLeak(t, before)
	c.WaitCount(counted + 3)

	c.Exec("kill", "-CONT", child)
	counted = c.WaitCount(1)
	archive := checkpointOf(t, c)
	pod.Remove()
	requireContinues(t, n.Pod(t).Run("restored", imageOf(t, n, archive)), counted)
}

// TestDumpMountPoint refuses to checkpoint a container that has moved the directory of a mount and put a link in its
// place, by which runc would name the mount to CRIU as another one (CVE-2026-119101). With an honest link the
// checkpoint is taken.
func TestDumpMountPoint(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	volume := filepath.Join(n.Dir(), "volume")
	writeHostFile(t, filepath.Join(volume, "file"), "of the volume")
	pod := n.Pod(t)
	c := pod.Run("counter", n.Image(harness.Busybox), harness.Counting(), harness.Mount(volume, "/a/data", false))
	before := n.Inventory(t)
	for _, target := range []string{"/b]:/etc", `/b\x`, "/b\nx"} {
		c.Exec("sh", "-ec", `mv /a /b; ln -s "$0" /a`, target)
		requireRefused(t, c.TryCheckpoint(filepath.Join(n.Dir(), "moved.tar")), codes.FailedPrecondition,
			`mount point "/a/data"`, "remove the links on its way")
		c.Exec("sh", "-ec", `rm /a; mv /b /a`)
	}
	n.RequireNoLeak(t, before)
	c.Exec("sh", "-ec", `mv /a /b; ln -s /b /a`)
	checkpointOf(t, c)
	c.Exec("sh", "-ec", `rm /a; mv /b /a`)
	counted := c.WaitCount(1)
	archive := checkpointOf(t, c)
	pod.Remove()
	requireContinues(t, n.Pod(t).Run("restored", imageOf(t, n, archive), harness.Mount(volume, "/a/data", false)), counted)
}
