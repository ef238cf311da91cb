package integration

import (
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestLazyReserve restores programs that have reserved 8 TiB of address space: eagerly, whatever was asked for, where
// the kernel would refuse a lazy restore what it needs, and lazily where the reservation does not count.
func TestLazyReserve(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives+"\n"+lazyOn+"\n"))
	for kind, wait := range map[string]func(*harness.Container){
		"counted": func(c *harness.Container) {
			waitDaemonLog(t, n, "restored container from checkpoint", c.ID, "lazy=false")
		},
		"uncounted": func(c *harness.Container) { waitDrained(t, c) },
	} {
		t.Run(kind, func(t *testing.T) {
			n := n.In(t)
			pod := n.Pod(t)
			c := pod.Run("reserve", workloadImage(t, n), workload("reserve", kind, "64", "1"))
			counted := waitOK(t, c, 2)
			archive := checkpointOf(t, c)
			pod.Remove()
			before := n.Inventory(t)
			pod = n.Pod(t)
			restored := pod.Run("restored", archive)
			requireOKContinues(t, restored, counted)
			wait(restored)
			if kind == "counted" {
				waitDaemonLog(t, n, "restoring eagerly", "reserved more address space than this node has memory")
			}
			pod.Remove()
			n.RequireNoLeak(t, before)
		})
	}
}
