package integration

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// benchCount is how often a restore is measured; an ordinary container, where less is at
// stake, four times as often. BENCH_COUNT in the environment changes it.
const benchCount = 15

// benchCase is one line of the table. All cases take turns, so that what else happens
// on the machine meets them alike.
type benchCase struct {
	name string
	// run measures one container: how long it took to create and to start.
	run func() (create, start time.Duration)

	creates, starts []time.Duration
}

// rounds is how often each case is measured.
func rounds(b *testing.B) int {
	b.Helper()
	text := os.Getenv("BENCH_COUNT")
	if text == "" {
		return benchCount
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		b.Fatalf("BENCH_COUNT: %q is no number above 0", text)
	}
	return n
}

// measure lets the cases take turns, reports each as a benchmark of its own and all
// as a table. The first case is what the others are compared with.
func measure(b *testing.B, cases []*benchCase, n int) {
	b.Helper()
	for round := range n + 1 {
		for _, c := range cases {
			create, start := c.run()
			if round == 0 {
				continue // warms caches
			}
			c.creates, c.starts = append(c.creates, create), append(c.starts, start)
		}
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d rounds, ms\tcreate\tmiddle half\tstart\tmiddle half\tboth\tof %s\t\n", n, cases[0].name)
	base := milliseconds(median(cases[0].creates)) + milliseconds(median(cases[0].starts))
	for _, c := range cases {
		both := milliseconds(median(c.creates)) + milliseconds(median(c.starts))
		fmt.Fprintf(w, "%s\t%.1f\t%s\t%.1f\t%s\t%.1f\t%.2f\t\n", c.name,
			milliseconds(median(c.creates)), spread(c.creates), milliseconds(median(c.starts)), spread(c.starts), both, both/base)
		b.Run(strings.ReplaceAll(c.name, " ", "_"), func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // not what was measured
			b.ReportMetric(milliseconds(median(c.creates)), "create-ms")
			b.ReportMetric(milliseconds(median(c.starts)), "start-ms")
		})
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	// Not b.Log, which is silent in a benchmark that has others below it.
	fmt.Print(table.String())
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func median(all []time.Duration) time.Duration { return quantile(all, 2) }

func quantile(all []time.Duration, quarter int) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)-1)*quarter/4]
}

// spread is between which the middle half of the measurements lies.
func spread(all []time.Duration) string {
	return fmt.Sprintf("%.1f-%.1f", milliseconds(quantile(all, 1)), milliseconds(quantile(all, 3)))
}

// createAndStart measures one container, which is removed afterwards.
func createAndStart(b *testing.B, pod *harness.Pod, image string, opts ...harness.ContainerOpt) (create, start time.Duration) {
	b.Helper()
	name := unique("bench")
	began := time.Now()
	c := pod.Create(name, image, opts...)
	created := time.Now()
	c.Start()
	started := time.Now()
	c.Remove()
	forgetLog(b, c)
	return created.Sub(began), started.Sub(created)
}

// BenchmarkOrdinary compares ordinary containers on our build with the same ones on the
// stock containerd. After the first container of an image ours may read no more of the
// content store than stock does.
func BenchmarkOrdinary(b *testing.B) {
	registry := harness.NewRegistry(b)
	var cases []*benchCase
	var opened [2]int
	for i, opts := range [][]harness.Option{{harness.WithBinary(stockContainerd(b))}, {}} {
		n := harness.New(b, append(opts, harness.WithRegistry(registry), harness.WithLogLevel("info"))...)
		image := n.ImageStatus(n.Image(harness.Busybox)).GetId()
		pod := n.Pod(b)
		pod.Run("first", image, harness.Counting()).Remove()
		count := watchBlobs(b, n)
		cases = append(cases, &benchCase{name: []string{"stock containerd", "our build"}[i], run: func() (create, start time.Duration) {
			count()
			create, start = createAndStart(b, pod, image, harness.Counting())
			opened[i] += count()
			return create, start
		}})
	}
	measure(b, cases, 4*rounds(b))
	n := float64(4*rounds(b) + 1)
	fmt.Printf("blobs of the content store opened for each container: stock containerd %.2f, our build %.2f\n", float64(opened[0])/n, float64(opened[1])/n)
	if opened[1] > opened[0] {
		b.Errorf("our build opens %d blobs, stock containerd %d: detection reads content that it should remember", opened[1], opened[0])
	}
}

// watchBlobs returns a function that tells how many blobs have been opened since it
// was called last.
func watchBlobs(b *testing.B, n *harness.Node) func() int {
	b.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err == nil {
		b.Cleanup(func() { unix.Close(fd) })
		_, err = unix.InotifyAddWatch(fd, filepath.Join(n.Root(), "io.containerd.content.v1.content", "blobs", "sha256"), unix.IN_OPEN)
	}
	if err != nil {
		b.Fatalf("watch the content store: %v", err)
	}
	return func() (count int) {
		buf := make([]byte, 64<<10)
		for {
			read, err := unix.Read(fd, buf)
			if err != nil || read <= 0 {
				return count
			}
			for at := 0; at < read; count++ {
				// inotify(7): watch, mask, cookie, and the length of the name
				at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:]))
			}
		}
	}
}

// BenchmarkRestore measures restores of processes of several sizes from images and archives,
// and what CRIU alone takes: runc restore, without containerd, shim and logs.
func BenchmarkRestore(b *testing.B) {
	n := harness.New(b, harness.WithRestoreConfig(allowArchives), harness.WithLogLevel("info"))
	workloads := workloadImage(b, n)
	busybox := n.ImageStatus(n.Image(harness.Busybox)).GetId()
	pod := n.Pod(b)
	cases := []*benchCase{{name: "ordinary container", run: func() (create, start time.Duration) {
		return createAndStart(b, pod, busybox, harness.Counting())
	}}}
	for _, tc := range []struct {
		name, image string
		opt         harness.ContainerOpt
		wait        func(*harness.Container)
	}{
		{"counter", busybox, harness.Counting(), func(c *harness.Container) { c.WaitCount(5) }},
		{"heap 16 MiB", workloads, workload("heap", "16"), func(c *harness.Container) { c.WaitLine("ok 2 ") }},
		{"heap 256 MiB", workloads, workload("heap", "256"), func(c *harness.Container) { c.WaitLine("ok 2 ") }},
	} {
		c := pod.Run(unique("source"), tc.image, tc.opt)
		tc.wait(c)
		archive := checkpointOf(b, c)
		c.Remove()
		image := n.ImageStatus(publishedImageOf(b, n, archive, "")).GetId()
		cases = append(cases,
			&benchCase{name: tc.name + " from image", run: func() (create, start time.Duration) {
				return createAndStart(b, pod, image)
			}},
			&benchCase{name: tc.name + " from archive", run: func() (create, start time.Duration) {
				return createAndStart(b, pod, archive)
			}},
			&benchCase{name: tc.name + " by runc alone", run: func() (create, start time.Duration) {
				return 0, bareRestore(b, pod, image)
			}},
		)
	}
	measure(b, cases, rounds(b))
}

// bareRestore restores with runc what a container that was created, and is never started,
// would be restored from: the same images, root file system, OCI spec and CRIU options.
func bareRestore(b *testing.B, pod *harness.Pod, image string) time.Duration {
	b.Helper()
	n := pod.Node()
	c := pod.Create(unique("bare"), image)
	defer func() {
		c.Remove()
		forgetLog(b, c)
	}()
	ctx := n.Context()
	container, err := n.Client().ContainerService().Get(ctx, c.ID)
	if err != nil {
		b.Fatal(err)
	}
	mounts, err := n.Client().SnapshotService(container.Snapshotter).Mounts(ctx, container.SnapshotKey)
	if err != nil {
		b.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(container.Spec.GetValue(), &spec); err != nil {
		b.Fatal(err)
	}
	bundle := filepath.Join(n.Dir(), unique("bundle"))
	root := filepath.Join(bundle, "rootfs")
	if err := os.MkdirAll(root, 0o700); err != nil {
		b.Fatal(err)
	}
	if err := mount.All(mounts, root); err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := mount.UnmountAll(root, 0); err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(bundle); err != nil {
			b.Error(err)
		}
	}()
	config, err := json.Marshal(spec)
	if err != nil {
		b.Fatal(err)
	}
	writeHostFile(b, filepath.Join(bundle, "config.json"), string(config))
	views, err := filepath.Glob(filepath.Join(n.State(), restorePlugin, "*", "view", "checkpoint"))
	if err != nil || len(views) != 1 {
		b.Fatalf("views: %q, error %v, want one", views, err)
	}

	runc := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, filepath.Join(n.Tools().Bin, "runc"), append([]string{"--root", filepath.Join(bundle, "runc")}, args...)...)
		cmd.Env = append(os.Environ(), "PATH="+n.Tools().Path())
		return cmd
	}
	restore := runc("restore", "--detach", "--bundle", bundle, "--image-path", views[0], "--work-path", filepath.Join(bundle, "work"), c.ID)
	done := discardOutput(b, restore)
	began := time.Now()
	err = restore.Run()
	took := time.Since(began)
	done()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(bundle, "work", "restore.log"))
		b.Fatalf("runc restore: %v\n%s", err, log[max(0, len(log)-2000):])
	}
	if out, err := runc("delete", "--force", c.ID).CombinedOutput(); err != nil {
		b.Fatalf("runc delete: %v: %s", err, out)
	}
	return took
}

// discardOutput gives the command pipes, as the process had at its checkpoint, and
// reads them until the process has ended. The returned function closes our ends.
func discardOutput(b *testing.B, cmd *exec.Cmd) (closeOurs func()) {
	b.Helper()
	var ours []*os.File
	for _, out := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			b.Fatal(err)
		}
		*out, ours = w, append(ours, w)
		go func() {
			_, _ = io.Copy(io.Discard, r)
			_ = r.Close()
		}()
	}
	return func() {
		for _, w := range ours {
			_ = w.Close()
		}
	}
}
