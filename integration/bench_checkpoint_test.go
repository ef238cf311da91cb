package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-restore/cri-restore/integration/harness"
)

const caseArchive = "our archive"

// BenchmarkCheckpoint compares checkpoints by stock containerd with ours. How long the
// container is frozen is measured from outside, by its freezer, for both alike.
func BenchmarkCheckpoint(b *testing.B) {
	registry := harness.NewRegistry(b)
	stock := harness.New(b, harness.WithBinary(stockContainerd(b)), harness.WithRegistry(registry),
		harness.WithLogLevel("info"))
	ours := harness.New(b, harness.WithRegistry(registry), harness.WithLogLevel("info"),
		harness.WithRestoreConfig(`allow_checkpoint_images = true`),
		harness.WithRestoreConfig(`pod_annotations = ["checkpoint-compression"]`))
	for _, mib := range sizes(b) {
		heap := func(n *harness.Node, opts ...harness.PodOpt) *harness.Container {
			c := n.Pod(b, opts...).Run("heap", workloadImage(b, n), workload("heap", strconv.Itoa(mib)))
			waitFilled(b, c)
			return c
		}
		fromStock, plain, zstd := heap(stock), heap(ours),
			heap(ours, harness.PodAnnotation("org.criu.restore/checkpoint-compression", "zstd"))
		var rows []*benchRow
		for _, tc := range []struct {
			name string
			c    *harness.Container
			run  func(*testing.B, *harness.Container) benchSample
		}{{caseStock, fromStock, toArchive}, {caseArchive, plain, toArchive}, {"our archive zstd", zstd, toArchive},
			{"our image", plain, toImage}} {
			rows = append(rows, &benchRow{Benchmark: "checkpoint", Case: tc.name, MiB: mib, Containers: 1,
				Run: func() benchSample { return tc.run(b, tc.c) }})
		}
		takeTurns(b, rows, rounds(b))
		for _, c := range []*harness.Container{fromStock, plain, zstd} {
			c.Pod.Remove()
		}
	}
	for line := range strings.Lines(ours.DaemonLog()) {
		if i := strings.Index(line, `msg="checkpointed container"`); i >= 0 {
			fmt.Print(line[i:])
		}
	}
}

// toArchive measures a checkpoint into an archive, which is removed.
func toArchive(b *testing.B, c *harness.Container) benchSample {
	b.Helper()
	file := filepath.Join(c.Pod.Node().Dir(), unique("checkpoint")+".tar")
	s := timedCheckpoint(b, c, file)
	if err := os.Remove(file); err != nil {
		b.Error(err)
	}
	return s
}

// toImage measures a checkpoint into an image, which is removed.
func toImage(b *testing.B, c *harness.Container) benchSample {
	b.Helper()
	name := "checkpoint.example/" + unique("bench") + ":1"
	s := timedCheckpoint(b, c, "oci-image:"+name)
	c.Pod.Node().RemoveImage(name)
	return s
}

func timedCheckpoint(b *testing.B, c *harness.Container, location string) benchSample {
	b.Helper()
	stop := watchFreezer(b, c)
	began := time.Now()
	if err := c.TryCheckpoint(location); err != nil {
		b.Fatal(err)
	}
	return benchSample{Start: time.Since(began), Frozen: stop()}
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
