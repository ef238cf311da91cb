package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// checkpointBytes is the size of the heap that is checkpointed, in MiB.
const checkpointMiB = "1024"

// checkpointCase is one line of the table of BenchmarkCheckpoint.
type checkpointCase struct {
	name     string
	node     *harness.Node
	c        *harness.Container
	location func() (location string, remove func())

	took, frozen []time.Duration
}

// BenchmarkCheckpoint compares checkpoints of 1 GiB of memory by stock containerd with ours, in turns. How long the
// container is frozen is measured from outside, by its freezer, for both alike.
func BenchmarkCheckpoint(b *testing.B) {
	registry := harness.NewRegistry(b)
	stock := harness.New(b, harness.WithBinary(stockContainerd(b)), harness.WithRegistry(registry), harness.WithLogLevel("info"))
	ours := harness.New(b, harness.WithRegistry(registry), harness.WithLogLevel("info"),
		harness.WithRestoreConfig(`allow_checkpoint_images = true`), harness.WithRestoreConfig(`pod_annotations = ["checkpoint-compression"]`))
	heap := func(n *harness.Node, opts ...harness.PodOpt) *harness.Container {
		c := n.Pod(b, opts...).Run("heap", workloadImage(b, n), workload("heap", checkpointMiB))
		waitFilled(b, c)
		return c
	}
	archive := func(n *harness.Node) func() (string, func()) {
		return func() (string, func()) {
			file := filepath.Join(n.Dir(), unique("checkpoint")+".tar")
			return file, func() {
				if err := os.Remove(file); err != nil {
					b.Error(err)
				}
			}
		}
	}
	image := func() (string, func()) {
		name := "checkpoint.example/" + unique("bench") + ":1"
		return "oci-image:" + name, func() { ours.RemoveImage(name) }
	}
	plain, zstd := heap(ours), heap(ours, harness.PodAnnotation("org.criu.restore/checkpoint-compression", "zstd"))
	cases := []*checkpointCase{
		{name: "stock archive", node: stock, c: heap(stock), location: archive(stock)},
		{name: "our archive", node: ours, c: plain, location: archive(ours)},
		{name: "our archive zstd", node: ours, c: zstd, location: archive(ours)},
		{name: "our image", node: ours, c: plain, location: image},
	}
	n := rounds(b)
	for round := range n + 1 {
		for _, c := range cases {
			location, remove := c.location()
			stop := watchFreezer(b, c.c)
			began := time.Now()
			if err := c.c.TryCheckpoint(location); err != nil {
				b.Fatalf("%s: %v", c.name, err)
			}
			took, frozen := time.Since(began), stop()
			remove()
			if round > 0 { // the first warms caches
				c.took, c.frozen = append(c.took, took), append(c.frozen, frozen)
			}
		}
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d rounds, %s MiB, ms\tcheckpoint\tmiddle half\tfrozen\tmiddle half\tof %s\t\n", n, checkpointMiB, cases[0].name)
	for _, c := range cases {
		ratio := milliseconds(median(c.took)) / milliseconds(median(cases[0].took))
		fmt.Fprintf(w, "%s\t%.0f\t%s\t%.0f\t%s\t%.2f\t\n", c.name, milliseconds(median(c.took)), spread(c.took), milliseconds(median(c.frozen)), spread(c.frozen), ratio)
		b.Run(strings.ReplaceAll(c.name, " ", "_"), func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // not what was measured
			b.ReportMetric(milliseconds(median(c.took)), "checkpoint-ms")
			b.ReportMetric(milliseconds(median(c.frozen)), "frozen-ms")
			b.ReportMetric(ratio, "of-stock")
		})
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	fmt.Print(table.String())
	for line := range strings.Lines(ours.DaemonLog()) {
		if i := strings.Index(line, `msg="checkpointed container"`); i >= 0 {
			fmt.Print(line[i:])
		}
	}
}

// waitFilled waits until the heap is full, for which a busy machine needs longer than for other lines.
func waitFilled(b *testing.B, c *harness.Container) {
	b.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(3 * time.Minute); len(c.Log()) == 0; <-tick.C {
		if time.Now().After(deadline) {
			b.Fatal("the heap does not fill")
		}
	}
	c.WaitLine("ok 2 ")
}

// watchFreezer measures until the returned function is called how long the container's
// process does not get any processor time while it is being checkpointed.
func watchFreezer(b *testing.B, c *harness.Container) (stop func() time.Duration) {
	b.Helper()
	file := fmt.Sprintf("/proc/%d/cgroup", c.Pid())
	content, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	state, frozen := "", "FROZEN\n"
	for line := range strings.Lines(string(content)) {
		if _, path, ok := strings.Cut(strings.TrimSpace(line), ":freezer:"); ok {
			state = filepath.Join("/sys/fs/cgroup/freezer", path, "freezer.state")
		} else if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && state == "" {
			state, frozen = filepath.Join("/sys/fs/cgroup", path, "cgroup.freeze"), "1\n"
		}
	}
	ended, result := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		var first, last time.Time
		for {
			select {
			case <-ended:
				result <- last.Sub(first)
				return
			case now := <-tick.C:
				// CRIU thaws the cgroup while it holds the processes by ptrace: the first and the last moment count.
				if content, err := os.ReadFile(state); err == nil && string(content) == frozen {
					if first.IsZero() {
						first = now
					}
					last = now
				}
			}
		}
	}()
	return func() time.Duration {
		close(ended)
		return <-result
	}
}
