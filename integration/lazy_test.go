package integration

import (
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

const (
	lazyOn  = `lazy_pages = "on"`
	lazyOff = `lazy_pages = "off"`
)

// pagesCheckpoint is the archive of a checkpointed pages workload, whose every line has read all of its memory.
func pagesCheckpoint(t *testing.T, n *harness.Node, mode ...string) (archive string, counted int) {
	t.Helper()
	pod := n.Pod(t)
	c := pod.Run("pages", workloadImage(t, n), workload(append([]string{"pages"}, mode...)...))
	counted = waitOK(t, c, 2)
	archive = checkpointOf(t, c)
	pod.Remove()
	return archive, counted
}

// waitDrained waits until the daemon's log says that the container has all of its memory.
func waitDrained(t *testing.T, c *harness.Container) {
	t.Helper()
	waitDaemonLog(t, c.Pod.Node(), "all memory of a lazily restored container has arrived", c.ID)
}

// waitDaemonLog waits for a line of the daemon's log with all the words.
func waitDaemonLog(t *testing.T, n *harness.Node, words ...string) {
	t.Helper()
	eventually(t, "a line of the daemon's log with "+strings.Join(words, ", "), func() bool {
		for line := range strings.Lines(n.DaemonLog()) {
			if !containsAll(line, words...) {
				continue
			}
			return true
		}
		return false
	})
}

// eventually waits for what cannot be waited for otherwise.
func eventually(t *testing.T, what string, come func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(2 * time.Minute); !come(); {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("not seen: %s", what)
		}
	}
}

func containsAll(text string, words ...string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// TestLazyRestore restores processes lazily, from archive and image: every word of their memory is
// what it was, in one process and several and in children that they fork while memory is arriving. When
// it has arrived nothing is left that the restore needed, and another checkpoint works.
func TestLazyRestore(t *testing.T) {
	t.Parallel()
	for snapshotter, cases := range map[string][]lazyRestore{
		"overlayfs": {{"one process", []string{"256", "1"}}, {"several processes", []string{"64", "4"}},
			{"forks", []string{"128", "2", "fork"}}},
		"native": {{"one process", []string{"64", "1"}}},
	} {
		t.Run(snapshotter, func(t *testing.T) {
			n := harness.New(t, harness.WithSnapshotter(snapshotter), harness.WithRestoreConfig(allowArchives),
				harness.WithRestoreConfig(lazyOn))
			testLazyRestore(t, n, snapshotter, cases)
		})
	}
}

// lazyRestore is a mode of the workload "pages".
type lazyRestore struct {
	name string
	mode []string
}

func testLazyRestore(t *testing.T, n *harness.Node, snapshotter string, cases []lazyRestore) {
	t.Helper()
	for _, tc := range cases {
		archive, counted := pagesCheckpoint(t, n.In(t), tc.mode...)
		for source, name := range map[string]string{"archive": archive,
			"image": publishedImageOf(t, n, archive, snapshotter)} {
			t.Run(tc.name+" from "+source, func(t *testing.T) {
				n := n.In(t)
				before := n.Inventory(t)
				pod := n.Pod(t)
				c := pod.Run("restored", name)
				at := requireOKContinues(t, c, counted)
				waitDrained(t, c)
				waitOK(t, c, at+2)
				again := checkpointOf(t, c)
				c.Remove()
				forgetLog(t, c)
				c = pod.Run("again", again)
				waitOK(t, c, at+3)
				waitDrained(t, c)
				waitOK(t, c, at+5)
				if st := c.Status(); st.GetState() != runtime.ContainerState_CONTAINER_RUNNING {
					t.Errorf("state %s", st.GetState())
				}
				pod.Remove()
				n.RequireNoLeak(t, before)
			})
		}
	}
	if !strings.Contains(n.DaemonLog(), "lazy=true") {
		t.Error("no restore was lazy")
	}
}
