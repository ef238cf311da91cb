package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// multipathEnabled is the sysctl as a container sees it.
const multipathEnabled = "/proc/sys/net/mptcp/enabled"

// podSysctl sets a sysctl of a pod.
func podSysctl(name, value string) harness.PodOpt {
	return func(s *harness.PodSpec) { s.Config.Linux.Sysctls = map[string]string{name: value} }
}

// TestDumpMultipath checkpoints and restores a server written in Go as it is by default. In pods that ask for Multipath
// TCP, and where the node's configuration leaves it on, the checkpoint is refused with what can be done.
func TestDumpMultipath(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	nodes := readFile(t, multipathEnabled)
	img := workloadImage(t, n)
	server := workload("listen", "0.0.0.0:8080")

	refused := func(t *testing.T, n *harness.Node, opts ...harness.PodOpt) {
		t.Helper()
		pod := n.Pod(t, opts...)
		c := pod.Run("listen", img, server)
		counted := waitOK(t, c, 1)
		if got := strings.TrimSpace(c.Exec("cat", multipathEnabled)); got != "1" {
			t.Fatalf("%s is %s", multipathEnabled, got)
		}
		requireRefused(t, c.TryCheckpoint(filepath.Join(n.Dir(), unique("multipath")+".tar")), codes.FailedPrecondition,
			"Unsupported proto 262", "Multipath TCP", "disable_mptcp = true", "GODEBUG=multipathtcp=0")
		waitOK(t, c, counted+2)
		pod.Remove()
	}
	t.Run("default", func(t *testing.T) {
		n := n.In(t)
		pod := n.Pod(t)
		c := pod.Run("listen", img, server)
		counted := waitOK(t, c, 1)
		if got := strings.TrimSpace(c.Exec("cat", multipathEnabled)); got != "0" {
			t.Errorf("%s is %s", multipathEnabled, got)
		}
		if got := ask(t, pod.IP()); got != "connection 1 of pid 1\n" {
			t.Errorf("before the checkpoint: %q", got)
		}
		archive := checkpointOf(t, c)
		pod.Remove()
		pod = n.Pod(t)
		requireOKContinues(t, pod.Run("restored", archive), counted)
		if got := ask(t, pod.IP()); got != "connection 2 of pid 1\n" {
			t.Errorf("after the restore: %q", got)
		}
		pod.Remove()
	})
	for _, name := range []string{"net.mptcp.enabled", "net/mptcp/enabled"} {
		t.Run("asked for as "+name, func(t *testing.T) { refused(t, n.In(t), podSysctl(name, "1")) })
	}
	t.Run("host network", func(t *testing.T) {
		c := n.In(t).Pod(t, harness.PodHostNetwork()).Run("sleep", n.Image(harness.Busybox), harness.Shell("sleep 100000"))
		if got := c.Exec("cat", multipathEnabled); got != nodes || readFile(t, multipathEnabled) != nodes {
			t.Errorf("%s is %s", multipathEnabled, got)
		}
	})
	n.Reconfigure(harness.WithRestoreConfig("disable_mptcp = false"))
	t.Run("left on", func(t *testing.T) { refused(t, n.In(t)) })
}
