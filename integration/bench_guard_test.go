package integration

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// maxInspection is the time of a processor that the inspection of what came back may take.
const maxInspection = 10 * time.Millisecond

// BenchmarkGuard measures the inspection of 50 processes that came back, before they run.
func BenchmarkGuard(b *testing.B) {
	n := harness.New(b, harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(lazyOff))
	const script = `i=1; while [ $i -lt 50 ]; do i=$((i+1)); sleep 100000 & done; exec /bin/workload heap 1`
	opts := append(restricted(0), harness.Shell(script)) // so that it is asked what its user may open
	pod := n.Pod(b)
	c := pod.Run("crowd", workloadImage(b, n), opts...)
	waitOK(b, c, 3)
	archive := checkpointOf(b, c)
	pod.Remove()
	pod = n.Pod(b)
	var inspected []time.Duration
	for range 3 * rounds(b) {
		c := pod.Run(unique("crowd"), archive, opts...)
		inspected = append(inspected, inspectionOf(b, n, c))
		c.Remove()
		forgetLog(b, c)
	}
	fmt.Printf("inspection of 50 restored processes: %.1f ms of a processor (%s)\n", milliseconds(median(inspected)),
		spread(inspected))
	b.ReportMetric(0, "ns/op") // not what was measured
	b.ReportMetric(milliseconds(median(inspected)), "inspection-ms")
	if median(inspected) > maxInspection {
		b.Errorf("the inspection takes %s, want at most %s", median(inspected), maxInspection)
	}
}

var inspection = regexp.MustCompile(`cpu=("?)([0-9.]+[µnm]?s)`)

// inspectionOf is the time of processors that the guard took for a container, by the daemon's log.
func inspectionOf(b *testing.B, n *harness.Node, c *harness.Container) time.Duration {
	b.Helper()
	for line := range strings.Lines(n.DaemonLog()) {
		if !containsAll(line, "the guard has looked at a restored container", c.ID) {
			continue
		}
		if found := inspection.FindStringSubmatch(line); found != nil {
			took, err := time.ParseDuration(found[2])
			if err != nil {
				b.Fatal(err)
			}
			return took
		}
	}
	b.Fatalf("the log does not say how long the guard took for %s", c.ID)
	return 0
}
