package integration

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// many is how many containers are restored at once. Of larger sizes it takes minutes a round, and of the largest they
// do not fit into memory; archives of those are left out, too.
const (
	many          = 8
	maxManyMiB    = 256
	maxArchiveMiB = 1024
)

// coldMiB is the size that is also measured with nothing in the kernel's cache.
const coldMiB = 1024

// maxWritten bounds what a restore from an image may write, logs for the most part, however large the memory is.
const maxWritten = 4 << 20

// BenchmarkRestore compares restores by our build, eager and lazy, from images and archives, with those of containerd
// 2.3.7 and with CRIU's own speed: runc restore from a plain directory, without containerd, shim and logs.
func BenchmarkRestore(b *testing.B) {
	registry := harness.NewRegistry(b)
	n := harness.New(b, harness.WithRegistry(registry), harness.WithLogLevel("info"),
		harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(`pod_annotations = ["lazy-pages"]`),
		harness.WithRestoreConfig(lazyOff))
	old := oldNode(b, registry)
	workloads := workloadImage(b, n)
	workloadImage(b, old)
	eager, lazy, olds := n.Pod(b), n.Pod(b, harness.PodAnnotation("org.criu.restore/lazy-pages", "on")), old.Pod(b)
	var rows []*benchRow
	for _, mib := range sizes(b) {
		c := eager.Run(unique("source"), workloads, workload("heap", strconv.Itoa(mib)))
		waitFilled(b, c)
		archive := checkpointOf(b, c)
		c.Remove()
		image, oldImage := n.ImageStatus(publishedImageOf(b, n, archive, "")).GetId(), publishedImageOf(b, old, archive, "")
		row := func(what string, containers int, run func(count int) benchSample) {
			rows = append(rows, &benchRow{Benchmark: "restore", Case: what, MiB: mib, Containers: containers,
				Run: func() benchSample { return run(containers) }})
		}
		from := func(pod *harness.Pod, image string) func(int) benchSample {
			return func(count int) benchSample { return restoreMany(b, pod, image, count) }
		}
		row(caseRunc, 1, func(int) benchSample { return benchSample{Start: bareRestore(b, eager, image)} })
		row(caseOld, 1, from(olds, oldImage))
		row(caseEager, 1, from(eager, image))
		row(caseLazy, 1, from(lazy, image))
		if mib <= maxArchiveMiB {
			row("2.3.7 archive", 1, from(olds, archive))
			row("eager archive", 1, from(eager, archive))
			row("lazy archive", 1, from(lazy, archive))
		}
		if mib <= maxManyMiB {
			row(caseOld, many, from(olds, oldImage))
			row(caseEager, many, from(eager, image))
			row(caseLazy, many, from(lazy, image))
		}
		if mib == coldMiB {
			row("eager image, cold", 1, func(int) benchSample { forgetPages(b, n); return restoreMany(b, eager, image, 1) })
			row("lazy image, cold", 1, func(int) benchSample { forgetPages(b, n); return restoreMany(b, lazy, image, 1) })
		}
	}
	takeTurns(b, rows, rounds(b))
	for _, r := range rows {
		if r.Case != caseEager && r.Case != caseLazy {
			continue
		}
		for _, s := range r.Samples {
			if s.Written > int64(r.Containers)*maxWritten {
				b.Errorf("%s: %d bytes were written between an unpacked image and the running process", r, s.Written)
			}
		}
	}
}

// restoreMany measures some containers that are created and started at once, and removes them.
func restoreMany(b *testing.B, pod *harness.Pod, image string, count int) (s benchSample) {
	b.Helper()
	var (
		all              = make([]*harness.Container, count)
		created, started = make([]time.Time, count), make([]time.Time, count)
		errs             = make([]error, count)
		wg               sync.WaitGroup
		servants         = servantsOf(pod)
		before           = ioOf(servants)
	)
	began := time.Now()
	for i := range all {
		wg.Go(func() {
			if all[i], errs[i] = pod.TryCreate(unique("bench"), image); errs[i] != nil {
				return
			}
			created[i] = time.Now()
			errs[i] = all[i].TryStart()
			started[i] = time.Now()
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	s.Create = slices.MaxFunc(created, time.Time.Compare).Sub(began)
	s.Start = slices.MaxFunc(started, time.Time.Compare).Sub(began) - s.Create
	for _, c := range all {
		s.Line = max(s.Line, firstLine(c, began))
	}
	isLazy := false
	for _, c := range all {
		// nobody tells that a process of somebody else's has ended
		for tick := time.NewTicker(time.Millisecond); serversOf(c.ID); {
			isLazy = true
			<-tick.C
		}
	}
	if isLazy {
		s.Drained = max(time.Since(began), s.Line)
	}
	for _, c := range all {
		servants = append(servants, c.Pid())
	}
	after := ioOf(servants)
	s.Read, s.Written = after.read-before.read, after.written-before.written
	for _, c := range all {
		c.Remove()
		forgetLog(b, c)
	}
	return s
}

// firstLine is how long after that time the container's process printed its first line.
func firstLine(c *harness.Container, began time.Time) (took time.Duration) {
	c.WaitLog(func([]string) bool {
		for _, l := range c.LogLines() {
			if l.Time.After(began) {
				took = l.Time.Sub(began)
				return true
			}
		}
		return false
	})
	return took
}

// ioBytes are the bytes that passed through read and write calls.
type ioBytes struct{ read, written int64 }

// servantsOf are containerd and the shim of the pod. What runc and CRIU have done counts as theirs when they have
// ended.
func servantsOf(pod *harness.Pod) []int {
	servants := []int{pod.Node().DaemonPid()}
	processes(func(pid int, dir string) bool {
		content, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if args := strings.Split(string(content), "\x00"); strings.HasSuffix(args[0], "containerd-shim-runc-v2") &&
			slices.Contains(args, pod.ID) {
			servants = append(servants, pid)
		}
		return true
	})
	return servants
}

// ioOf sums what the processes have read and written since they began (proc_pid_io(5): rchar, wchar).
func ioOf(pids []int) (sum ioBytes) {
	for _, pid := range pids {
		content, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "io"))
		for line := range strings.Lines(string(content)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			n, _ := strconv.ParseInt(value, 10, 64)
			switch name {
			case "rchar":
				sum.read += n
			case "wchar":
				sum.written += n
			}
		}
	}
	return sum
}

// forgetPages drops the pages of all checkpoints from the kernel's cache.
func forgetPages(b *testing.B, n *harness.Node) {
	b.Helper()
	files, err := filepath.Glob(filepath.Join(n.Root(), "io.containerd.snapshotter.v1.overlayfs", "snapshots", "*", "fs",
		"checkpoint", "pages-*.img"))
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
