package integration

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// What an answer to the worst checkpoint may take: the default of verification_timeout, of processors, and what the
// images may take decoded, twice, because garbage is collected when there is as much of it.
const (
	maxAnswer      = 10 * time.Second
	maxAnswerBytes = 2 * 256 << 20
)

// worstArchives are all that is known to be long to verify, at the size that images may have, and archives of a few
// bytes that unpack to as much as is allowed.
func worstArchives(b *testing.B, n *harness.Node, archive string) map[string]func() string {
	all := map[string]func() string{}
	for name, change := range criutest.Hostile(1) {
		all[name] = func() string { return hostileArchive(b, n, archive, change) }
	}
	most := checkpoint.DefaultLimits().ArchiveBytes
	all["a hole, and nothing else"] = func() string { return holeArchive(b, n) }
	all["a hole for memory"] = func() string {
		honest := withoutEntry(entriesOf(b, archive), "checkpoint/pages-1.img")
		for _, e := range honest {
			most -= e.Size
		}
		return sparseArchive(b, n, append(honest, regularEntry("checkpoint/pages-1.img", "")), "checkpoint/pages-1.img",
			most, "pax")
	}
	return all
}

// BenchmarkWorst measures how long the creation of a container from the worst checkpoints takes until there is an
// answer, of which processors, and how much more memory containerd has meanwhile than before.
func BenchmarkWorst(b *testing.B) {
	n := harness.New(b, harness.WithRestoreConfig(allowArchives), harness.WithLogLevel("info"))
	archive, _ := countingCheckpoint(b, n, restricted(0)...)
	pod := n.Pod(b)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer table.Flush()
	fmt.Fprintf(table, "the worst of the list\tarchive\tanswer\tafter\tprocessors\tmemory\t\n")
	all := worstArchives(b, n, archive)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		b.Run(name, func(b *testing.B) {
			n := n.In(b)
			hostile := all[name]()
			info, err := os.Stat(hostile)
			if err != nil {
				b.Fatal(err)
			}
			n.Restart() // what another one has left in memory must not count
			before, daemon := processorsOf(b, n), n.DaemonPid()
			had := trackMemory(b, n)
			began := time.Now()
			c, err := pod.TryCreate(unique("worst"), hostile, append(restricted(0), harness.Counting())...)
			took, cpu, more := time.Since(began), processorsOf(b, n)-before, peakMemory(b, n)-had
			fmt.Fprintf(table, "%s\t%d KiB\t%s\t%.0f ms\t%.0f ms\t%d MiB\t\n",
				name, info.Size()>>10, status.Code(err), milliseconds(took), milliseconds(cpu), more>>20)
			b.ReportMetric(0, "ns/op") // not what was measured
			b.ReportMetric(milliseconds(took), "ms")
			b.ReportMetric(milliseconds(cpu), "cpu-ms")
			b.ReportMetric(float64(more>>20), "MiB")
			switch status.Code(err) {
			case codes.OK:
				c.Remove()
				forgetLog(b, c)
			case codes.PermissionDenied, codes.InvalidArgument, codes.FailedPrecondition, codes.ResourceExhausted:
			default:
				b.Error(err)
			}
			if n.DaemonPid() != daemon || cpu > maxAnswer || more > maxAnswerBytes {
				b.Errorf("an answer took %s of processors and %d MiB, want at most %s and %d MiB: %v", cpu, more>>20, maxAnswer,
					maxAnswerBytes>>20, err)
			}
		})
	}
}

// daemonFile reads a file of containerd's process in procfs.
func daemonFile(b *testing.B, n *harness.Node, name string) string {
	b.Helper()
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(n.DaemonPid()), name))
	if err != nil {
		b.Fatal(err)
	}
	return string(content)
}

// processorsOf is the time that containerd has had of processors (proc_pid_stat(5), utime and stime).
func processorsOf(b *testing.B, n *harness.Node) time.Duration {
	b.Helper()
	_, fields, _ := strings.Cut(daemonFile(b, n, "stat"), ") ")
	var ticks int64
	for _, field := range strings.Fields(fields)[11:13] {
		t, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += t
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ
}

// trackMemory makes the kernel forget how much containerd has had at most (proc_pid_clear_refs(5)). It returns what
// it has.
func trackMemory(b *testing.B, n *harness.Node) int64 {
	b.Helper()
	if err := os.WriteFile(filepath.Join("/proc", strconv.Itoa(n.DaemonPid()), "clear_refs"), []byte("5"), 0); err != nil {
		b.Fatal(err)
	}
	return peakMemory(b, n)
}

// peakMemory is the most that containerd has had since then, in bytes.
func peakMemory(b *testing.B, n *harness.Node) int64 {
	b.Helper()
	_, rest, _ := strings.Cut(daemonFile(b, n, "status"), "VmHWM:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib << 10
}
