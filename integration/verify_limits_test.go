package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestForcedLimitsOfEveryProcess looks at every process of a container, not only at the first one: each has its own
// OOM score, limits and login in the checkpoint, and is given the request's and the node's.
//
// What CRIU would do by itself is made to differ from that: it inherits from the pod's shim another score
// than any request's, and a higher limit than containerd has by now.
func TestForcedLimitsOfEveryProcess(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newFamilyGrant(t, n)
	ordinary := g.pod.Run("ordinary", n.Image(harness.Busybox), harness.Counting())
	shim := parentOf(t, ordinary.Pid())
	ordinary.Remove()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", shim), []byte("50"), 0o600); err != nil {
		t.Fatal(err)
	}
	const queue = 4096
	if err := unix.Prlimit(n.DaemonPid(), unix.RLIMIT_MSGQUEUE, &unix.Rlimit{Cur: queue, Max: queue}, nil); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		image   int32
		request int64
		want    int
	}{
		{300, 700, 700},
		{800, 700, 700},
		{0, 700, 700},
		// CRIU writes no zero and leaves the shim's score. One is what can be forced.
		{0, 0, 1},
		{300, 0, 1},
	} {
		t.Run(fmt.Sprintf("%d for %d", tc.image, tc.request), func(t *testing.T) {
			archive := editImages(t, g.archive, func(e *imageEditor) {
				for _, p := range e.Processes() {
					e.Core(p.GetPid(), func(c *criu_core.CoreEntry) {
						c.Tc.OomScoreAdj, c.Tc.Loginuid = &tc.image, proto.Uint32(0)
					})
				}
			})
			g.opts = []harness.ContainerOpt{harness.Resources(func(r *runtime.LinuxContainerResources) {
				r.OomScoreAdj = tc.request
			})}
			g.accepts(t, archive, func(c *harness.Container) {
				for what, pid := range map[string]int{"the first": c.Pid(), "its child": childOf(t, c)} {
					for file, value := range map[string]string{"oom_score_adj": strconv.Itoa(tc.want), "loginuid": "4294967295"} {
						if got := strings.TrimSpace(readFile(t, filepath.Join("/proc", strconv.Itoa(pid), file))); got != value {
							t.Errorf("%s: %s is %s, want %s", what, file, got, value)
						}
					}
					var limit unix.Rlimit
					if err := unix.Prlimit(pid, unix.RLIMIT_MSGQUEUE, nil, &limit); err != nil {
						t.Fatal(err)
					}
					if limit.Cur != queue || limit.Max != queue {
						t.Errorf("%s: limits of message queues %v, want %d", what, limit, queue)
					}
				}
			})
		})
	}
}

// parentOf returns the parent of a process: for the first one of a container, its shim.
func parentOf(t *testing.T, pid int) int {
	t.Helper()
	for _, line := range strings.Split(readFile(t, fmt.Sprintf("/proc/%d/status", pid)), "\n") {
		if value, ok := strings.CutPrefix(line, "PPid:"); ok {
			parent, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				t.Fatal(err)
			}
			return parent
		}
	}
	t.Fatalf("process %d has no parent", pid)
	return 0
}

// childOf returns the process that was the first one's child when the checkpoint was taken. The other
// children come and go.
func childOf(t *testing.T, c *harness.Container) int {
	t.Helper()
	for _, pid := range strings.Fields(readFile(t, filepath.Join(cgroupDir(t, c, "memory"), "cgroup.procs"))) {
		if cmdline, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline")); err == nil &&
			string(cmdline) == "sleep\x00100000\x00" {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the container has no such child")
	return 0
}
