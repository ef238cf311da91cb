package integration

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// Commands that are executed all the time, as probes are, do not hinder a checkpoint, and come to no harm by it.
func TestCheckpointDuringExec(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	c := pod.Run("counter", n.Image(harness.Busybox), harness.Counting())
	c.WaitCount(2)
	var executed sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for range 3 {
		executed.Go(func() {
			for ctx.Err() == nil {
				stdout, stderr, code, err := c.TryExec("echo", "x")
				if err != nil && strings.Contains(err.Error(), "cannot exec in a paused") {
					continue // as ever in a container that is frozen
				}
				if err != nil || code != 0 || stdout != "x\n" {
					t.Errorf("executed meanwhile: %q, %q, %d, %v", stdout, stderr, code, err)
					return
				}
			}
		})
	}
	var archive string
	for range 5 {
		archive = c.Checkpoint("")
	}
	stop()
	executed.Wait()
	c.WaitCount(harness.Count(c.Log()) + 2)
	c.Remove()
	n.Reconfigure(harness.WithRestoreConfig(allowArchives))
	requireContinues(t, pod.Run("restored", archive), 2)
}

// A connection that the program has accepted is no obstacle to a checkpoint, and goes on.
func TestCheckpointDuringConnection(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	c := pod.Run("server", n.Image(harness.Busybox),
		harness.Shell(`nc -ll -p 8080 -e cat & i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`))
	c.WaitCount(2)
	client := dialEcho(t, pod, "8080")
	for range 3 {
		client.requireEcho()
		c.Checkpoint("")
	}
	client.requireEcho()
	c.WaitCount(harness.Count(c.Log()) + 2)
}

// One that nobody has accepted yet is not dumped by CRIU. The checkpoint waits for a moment, as for a probe, and is
// refused if it stays.
func TestCheckpointDuringHandshake(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	volume := filepath.Join(n.Dir(), "volume")
	writeHostFile(t, filepath.Join(volume, "file"), "of the volume")
	c := pod.Run("server", workloadImage(t, n), workload("accept", ":8080", "/volume/accept"),
		harness.Mount(volume, "/volume", false))
	counted := waitOK(t, c, 2)
	dialEcho(t, pod, "8080")
	err := c.TryCheckpoint(filepath.Join(n.Dir(), "refused.tar"))
	requireRefused(t, err, codes.FailedPrecondition, "In-flight connection")
	if log := n.DaemonLog(); strings.Count(log, "cannot checkpoint container at this moment") < 2 {
		t.Errorf("was not tried again: %s", log)
	}
	counted = waitOK(t, c, counted+2)
	writeHostFile(t, filepath.Join(volume, "accept"), "now")
	waitOK(t, c, counted+2)
	checkpointOf(t, c)
}
