package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// lazyCase is one line of the table of BenchmarkLazy.
type lazyCase struct {
	name string
	run  func() lazyTimes

	all []lazyTimes
}

// lazyTimes are the times of one restore, all from the beginning of its creation.
type lazyTimes struct {
	create, start time.Duration // of the two calls
	line          time.Duration // until the first line of the restored process
	drained       time.Duration // until all memory was there, and the page server had ended
}

// BenchmarkLazy compares lazy restores from an image with eager ones and with runc alone, for several sizes of memory.
// BENCH_SIZES in the environment changes the sizes, in MiB.
func BenchmarkLazy(b *testing.B) {
	sizes := strings.Fields(os.Getenv("BENCH_SIZES"))
	if len(sizes) == 0 {
		sizes = []string{"16", "64", "256", "1024"}
	}
	n := harness.New(b, harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(`pod_annotations = ["lazy-pages"]`), harness.WithLogLevel("info"))
	workloads := workloadImage(b, n)
	eager, lazy := n.Pod(b), n.Pod(b, harness.PodAnnotation("org.criu.restore/lazy-pages", "on"))
	var cases []*lazyCase
	for _, size := range sizes {
		c := eager.Run(unique("source"), workloads, workload("heap", size))
		c.WaitLine("ok 2 ")
		archive := checkpointOf(b, c)
		c.Remove()
		image := n.ImageStatus(publishedImageOf(b, n, archive, "")).GetId()
		if err := os.Remove(archive); err != nil {
			b.Fatal(err)
		}
		cases = append(cases,
			&lazyCase{name: size + " MiB by runc alone", run: func() lazyTimes { return lazyTimes{start: bareRestore(b, eager, image)} }},
			&lazyCase{name: size + " MiB eager", run: func() lazyTimes { return timedRestore(b, eager, image) }},
			&lazyCase{name: size + " MiB lazy", run: func() lazyTimes { return timedRestore(b, lazy, image) }},
			&lazyCase{name: size + " MiB eager, cold", run: func() lazyTimes { forgetPages(b, n); return timedRestore(b, eager, image) }},
			&lazyCase{name: size + " MiB lazy, cold", run: func() lazyTimes { forgetPages(b, n); return timedRestore(b, lazy, image) }},
		)
	}
	rounds := rounds(b)
	for round := range rounds + 1 {
		for _, c := range cases {
			if times := c.run(); round > 0 {
				c.all = append(c.all, times)
			}
		}
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d rounds, ms\tcreate\tstart\tmiddle half\tboth\tfirst line\tdrained\t\n", rounds)
	for _, c := range cases {
		of := func(f func(lazyTimes) time.Duration) []time.Duration {
			var out []time.Duration
			for _, times := range c.all {
				out = append(out, f(times))
			}
			return out
		}
		mid := func(f func(lazyTimes) time.Duration) float64 { return milliseconds(median(of(f))) }
		start := func(t lazyTimes) time.Duration { return t.start }
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%s\t%.1f\t%.1f\t%.1f\t\n", c.name, mid(func(t lazyTimes) time.Duration { return t.create }), mid(start), spread(of(start)),
			mid(func(t lazyTimes) time.Duration { return t.create + t.start }), mid(func(t lazyTimes) time.Duration { return t.line }), mid(func(t lazyTimes) time.Duration { return t.drained }))
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	fmt.Print(table.String())
}

// timedRestore measures one container, which is removed afterwards.
func timedRestore(b *testing.B, pod *harness.Pod, image string) (times lazyTimes) {
	b.Helper()
	began := time.Now()
	c := pod.Create(unique("bench"), image)
	created := time.Now()
	c.Start()
	started := time.Now()
	times.create, times.start = created.Sub(began), started.Sub(created)
	old := oldLines(b, c)
	c.WaitLog(func(lines []string) bool { return len(lines) > old })
	if lines := c.LogLines(); len(lines) > old {
		times.line = lines[old].Time.Sub(began)
	}
	for tick := time.NewTicker(time.Millisecond); serversOf(c.ID); { // nobody tells that a process of somebody else's has ended
		<-tick.C
	}
	times.drained = max(time.Since(began), times.line)
	c.Remove()
	forgetLog(b, c)
	return times
}

// forgetPages drops the pages of all checkpoints from the kernel's cache.
func forgetPages(b *testing.B, n *harness.Node) {
	b.Helper()
	files, err := filepath.Glob(filepath.Join(n.Root(), "io.containerd.snapshotter.v1.overlayfs", "snapshots", "*", "fs", "checkpoint", "pages-*.img"))
	if err != nil || len(files) == 0 {
		b.Fatalf("pages of the checkpoints: %q, %v", files, err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close()); err != nil {
			b.Fatal(err)
		}
	}
}

// serversOf reports whether a page server of the container runs.
func serversOf(id string) (found bool) {
	processes(func(_ int, dir string) bool {
		content, _ := os.ReadFile(dir + "/cmdline")
		args := strings.Split(string(content), "\x00")
		found = strings.HasSuffix(args[0], "/restore-pages") && slices.Contains(args, id)
		return !found
	})
	return found
}
