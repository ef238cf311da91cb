package integration

import (
	"bufio"
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

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

// CRIU does not dump connections. The checkpoint waits for the end of short ones, as of probes, and leaves others as they are.
func TestCheckpointDuringConnection(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	c := pod.Run("server", n.Image(harness.Busybox), harness.Shell(`nc -ll -p 8080 -e cat & i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`))
	c.WaitCount(2)
	dial := func() (_ net.Conn, echo func()) {
		t.Helper()
		conn, err := net.Dial("tcp", net.JoinHostPort(pod.IP(), "8080"))
		if err != nil {
			t.Fatal(err)
		}
		answers := bufio.NewReader(conn)
		return conn, func() {
			t.Helper()
			if _, err := conn.Write([]byte("x\n")); err != nil {
				t.Fatal(err)
			}
			if line, err := answers.ReadString('\n'); err != nil || line != "x\n" {
				t.Fatalf("%q, %v", line, err)
			}
		}
	}

	conn, echo := dial()
	echo()
	err := c.TryCheckpoint(filepath.Join(n.Dir(), "refused.tar"))
	requireRefused(t, err, codes.FailedPrecondition, "TCP socket")
	echo()
	if log := n.DaemonLog(); strings.Count(log, "cannot checkpoint container at this moment") < 2 {
		t.Errorf("was not tried again: %s", log)
	}

	time.AfterFunc(300*time.Millisecond, func() { conn.Close() })
	c.Checkpoint("")
	c.WaitCount(harness.Count(c.Log()) + 2)
}
