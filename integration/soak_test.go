package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

const (
	// soakShort is how many restores there are in an ordinary run of the tests, soakAtOnce how many at a time.
	soakShort, soakAtOnce = 24, 8
)

// soakState is what must not grow.
type soakState struct {
	goroutines, descriptors, resident, metadata int
	heap                                        int // what is alive after a garbage collection of Go, in bytes
}

func (s soakState) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d KiB resident, %d KiB of heap alive, %d KiB metadata",
		s.goroutines, s.descriptors, s.resident>>10, s.heap>>10, s.metadata>>10)
}

// soakMeasure looks at containerd when it has come to rest.
func soakMeasure(t *testing.T, n *harness.Node, address, debug string) soakState {
	t.Helper()
	n.Inventory(t) // collects garbage
	var s soakState
	goroutines, _ := strconv.ParseFloat(metric(t, address, "go_goroutines"), 64)
	s.goroutines = int(goroutines)
	heapProfile(t, debug) // collects Go's garbage
	alive, _ := strconv.ParseFloat(metric(t, address, "go_memstats_heap_alloc_bytes"), 64)
	s.heap = int(alive)
	for _, count := range descriptorsOf(n.DaemonPid()) {
		s.descriptors += count
	}
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", n.DaemonPid()))
	if err != nil {
		t.Fatal(err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(statm))[1])
	s.resident = pages * os.Getpagesize()
	fi, err := os.Stat(filepath.Join(n.Root(), "io.containerd.metadata.v1.bolt", "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	s.metadata = int(fi.Size())
	return s
}

// heapProfile is what is alive in containerd's heap. With SOAK_HEAP, a directory, in the environment it is also written
// there, for go tool pprof.
func heapProfile(t *testing.T, debug string) {
	t.Helper()
	out := fetch(t, "http://"+debug+"/debug/pprof/heap?gc=1")
	if dir := os.Getenv("SOAK_HEAP"); dir != "" {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("%d.pprof", time.Now().UnixMilli())), out)
	}
}

// listen takes the events of containers. Where nobody does, containerd keeps them all for five minutes
// (containerd: internal/cri/server/service.go, containerEventsQ).
func listen(t *testing.T, n *harness.Node) {
	t.Helper()
	stream, err := n.Runtime().GetContainerEvents(t.Context(), &runtime.GetEventsRequest{}) // of the whole test
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				return // containerd has ended, or the test
			}
		}
	}()
}

// TestSoak restores again and again, eight at a time, from image and archive, eager and lazy. What containerd holds
// afterwards is what it held after the first rounds. "make soak" does it a thousand times; SOAK_N in the environment is
// how often.
func TestSoak(t *testing.T) {
	t.Parallel()
	total := int(chaosNumber(t, "SOAK_N", soakShort))
	address, debug := freeAddress(t), freeAddress(t)
	n := harness.New(t, harness.WithRestoreConfig(chaosConfig), harness.WithLogLevel("info"),
		harness.WithConfig(fmt.Sprintf("[plugins.'io.containerd.server.v1.metrics']\naddress = %q\n"+
			"[plugins.'io.containerd.server.v1.debug']\naddress = %q\n", address, debug)))
	archive, _ := pagesCheckpoint(t, n, "16", "1")
	image := publishedImageOf(t, n, archive, "")
	pods := []*harness.Pod{n.Pod(t), n.Pod(t, harness.PodAnnotation("org.criu.restore/lazy-pages", "on"))}
	listen(t, n)
	before := n.Inventory(t)
	var (
		mu      sync.Mutex
		creates []time.Duration
		starts  []time.Duration
	)
	cycle := func(i int) error {
		began := time.Now()
		c, err := pods[i%2].TryCreate(fmt.Sprintf("soak-%d", i), []string{image, archive}[i/2%2])
		if err != nil {
			return err
		}
		created := time.Now()
		if err := c.TryStart(); err != nil {
			return err
		}
		started := time.Now()
		mu.Lock()
		creates, starts = append(creates, created.Sub(began)), append(starts, started.Sub(created))
		mu.Unlock()
		if err := c.TryRemove(); err != nil {
			return err
		}
		return os.Remove(c.LogFile())
	}
	rounds := func(from, to int) {
		t.Helper()
		var (
			next atomic.Int64
			wg   sync.WaitGroup
		)
		next.Store(int64(from))
		for range soakAtOnce {
			wg.Go(func() {
				for {
					i := int(next.Add(1)) - 1
					if i >= to || t.Failed() {
						return
					}
					if err := cycle(i); err != nil {
						t.Errorf("cycle %d: %v", i, err)
					}
				}
			})
		}
		wg.Wait()
	}
	warm := max(soakAtOnce, total/5)
	rounds(0, warm)
	n.RequireNoLeak(t, before)
	first := soakMeasure(t, n, address, debug)
	rounds(warm, total)
	n.RequireNoLeak(t, before)
	var last soakState
	flat := func() bool {
		last = soakMeasure(t, n, address, debug)
		return last.goroutines <= first.goroutines+5 && last.descriptors <= first.descriptors+5
	}
	for deadline := time.Now().Add(20 * time.Second); !flat() && time.Now().Before(deadline); {
		<-time.After(time.Second)
	}
	t.Logf("after %d cycles: %v", warm, first)
	t.Logf("after %d cycles: %v", total, last)
	for name, all := range map[string][]time.Duration{"create": creates, "start": starts} {
		if slices.Sort(all); len(all) > 0 {
			at := func(share float64) time.Duration { return all[int(share*float64(len(all)-1))].Round(time.Millisecond) }
			t.Logf("%s: 50 %% %v, 90 %% %v, 99 %% %v, longest %v", name, at(0.5), at(0.9), at(0.99), at(1))
		}
	}
	if last.goroutines > first.goroutines+5 || last.descriptors > first.descriptors+5 {
		t.Errorf("containerd has %v, after the first cycles it had %v", last, first)
	}
	if total >= 10*soakShort && last.heap > first.heap+first.heap/4 {
		t.Errorf("what is alive in containerd's heap grows: %v, after the first cycles %v", last, first)
	}
	// Go gives memory back when it likes, and bolt's file never shrinks.
	if last.resident > first.resident+first.resident/2 || last.metadata > 2*first.metadata {
		t.Errorf("containerd grows: %v, after the first cycles %v", last, first)
	}
}
