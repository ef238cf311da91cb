package integration

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// What an ordinary container may cost on our build, as ratios to stock, and the start of containerd in milliseconds
// more.
const (
	costCalls      = 1.02 // median of create, start, stop and remove
	costListImages = 1.10 // median beside 150 containers
	costMemory     = 1.05 // resident memory of containerd after 300 containers
	costBoot       = 20.0 // median of the start, in milliseconds more

	costRounds     = 100
	costContainers = 300
	costBeside     = 150
	costListings   = 400
	costBoots      = 15
)

// costSide is one of the two builds, with what was measured of it.
type costSide struct {
	n     *harness.Node
	pod   *harness.Pod
	image string
	took  map[string][]time.Duration
}

func (s *costSide) time(what string, call func()) {
	began := time.Now()
	call()
	s.took[what] = append(s.took[what], time.Since(began))
}

// round creates, starts, stops and removes a container.
func (s *costSide) round(b *testing.B) {
	var c *harness.Container
	var all time.Duration
	for _, call := range []struct {
		what string
		do   func()
	}{
		{"create", func() {
			c = s.pod.Create(unique("cost"), s.image, harness.Shell("trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"))
		}},
		{"start", func() { c.Start() }},
		{"stop", func() { c.Stop(10 * time.Second) }},
		{"remove", func() { c.Remove() }},
	} {
		s.time(call.what, call.do)
		all += s.took[call.what][len(s.took[call.what])-1]
	}
	s.took["all four"] = append(s.took["all four"], all)
	forgetLog(b, c)
}

// resident is containerd's resident memory in KiB.
func (s *costSide) resident(b *testing.B) float64 {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.n.DaemonPid()))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

var booted = regexp.MustCompile(`containerd successfully booted in ([0-9.]+)s`)

// boot is how long the last start took, in milliseconds, by containerd's own word.
func (s *costSide) boot(b *testing.B) float64 {
	b.Helper()
	all := booted.FindAllStringSubmatch(s.n.DaemonLog(), -1)
	if len(all) == 0 {
		b.Fatal("containerd does not say how long its start took")
	}
	seconds, err := strconv.ParseFloat(all[len(all)-1][1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return seconds * 1000
}

// BenchmarkOrdinaryCost measures in turns what ordinary containers cost on our build and on stock, and says which bound
// is kept. It is for a quiet machine: what is compared runs at the same time, but two processors are soon busy.
func BenchmarkOrdinaryCost(b *testing.B) {
	registry := harness.NewRegistry(b)
	var sides []*costSide // ours, stock
	for _, opts := range [][]harness.Option{{}, {harness.WithBinary(stockContainerd(b))}} {
		n := harness.New(b, append(opts, harness.WithRegistry(registry), harness.WithLogLevel("info"))...)
		sides = append(sides, &costSide{n: n, image: n.ImageStatus(n.Image(harness.Busybox)).GetId(),
			took: map[string][]time.Duration{}})
	}
	ours, stock := sides[0], sides[1]
	turns := func(n int, f func(s *costSide)) {
		for i := range n {
			f(sides[i%2]) // who is first changes
			f(sides[(i+1)%2])
		}
	}
	report := func(what string, value, bound float64, unit string) {
		kept := "kept"
		if value > bound {
			kept = "NOT KEPT"
		}
		fmt.Printf("ordinary cost: %-34s %6.3f %s, bound %.2f: %s\n", what, value, unit, bound, kept)
		b.ReportMetric(value, strings.ReplaceAll(what, " ", "_"))
	}
	b.ReportMetric(0, "ns/op") // not what was measured

	// Before there is anything that containerd would have to look at.
	boots := map[*costSide][]time.Duration{}
	turns(costBoots, func(s *costSide) {
		s.n.Restart()
		boots[s] = append(boots[s], time.Duration(s.boot(b)*float64(time.Millisecond)))
	})
	report("start of containerd", milliseconds(median(boots[ours]))-milliseconds(median(boots[stock])), costBoot,
		"ms more")
	for _, s := range sides {
		s.pod = s.n.Pod(b)
	}
	turns(1, func(s *costSide) { s.round(b) })
	for _, s := range sides {
		clear(s.took)
	}
	turns(costRounds, func(s *costSide) { s.round(b) })
	for _, what := range []string{"create", "start", "stop", "remove", "all four"} {
		report(what, float64(median(ours.took[what]))/float64(median(stock.took[what])), costCalls, "of stock")
	}
	turns(costContainers-costRounds-1, func(s *costSide) { s.round(b) })
	report("memory after 300 containers", ours.resident(b)/stock.resident(b), costMemory, "of stock")

	for _, s := range sides {
		for range costBeside {
			s.pod.Create(unique("beside"), s.image, harness.Command("/bin/true"))
		}
	}
	turns(costListings, func(s *costSide) {
		s.time("list", func() {
			if _, err := s.n.Images().ListImages(s.n.Context(), &runtime.ListImagesRequest{}); err != nil {
				b.Fatal(err)
			}
		})
	})
	report("ListImages beside 150 containers", float64(median(ours.took["list"]))/float64(median(stock.took["list"])),
		costListImages, "of stock")
}
