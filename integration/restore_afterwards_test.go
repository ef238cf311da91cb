package integration

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/integration/testimage"
)

// TestRestoreExec runs commands in a restored container: they have the environment, user and
// directory of the request and the base image, not those of the checkpoint (point 8).
func TestRestoreExec(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	base := pushTestImage(t, n, testimage.Options{Env: []string{"FROM_IMAGE=base"}})
	pod := n.Pod(t)
	old := pod.Run("counter", base, harness.Counting(), harness.Env("FROM_OLD", "old"), harness.Env("CHANGED", "old"))
	counted := old.WaitCount(5)
	archive := checkpointOf(t, old)
	pod.Remove()

	c := n.Pod(t).Run("restored", archive, harness.Env("FROM_REQUEST", "new"), harness.Env("CHANGED", "new"),
		harness.WorkingDir("/data"))
	requireContinues(t, c, counted)
	if got := strings.TrimSpace(c.Exec("/bin/sh", "-c",
		`echo "$FROM_IMAGE $FROM_REQUEST $CHANGED [$FROM_OLD] $PATH"; id -u; pwd`)); got !=
		"base new new [] "+testimage.Path+"\n0\n/data" {
		t.Errorf("environment, user and directory: %q", got)
	}
	// The process itself was not started again: it has what it had.
	if got := c.Exec("cat", "/proc/1/environ"); !strings.Contains(got, "CHANGED=old") {
		t.Errorf("environment of the restored process: %q", got)
	}
	if _, stderr, code, err := c.TryExec("/bin/sh", "-c", "echo oops >&2; exit 7"); err != nil || code != 7 ||
		stderr != "oops\n" {
		t.Errorf("exec: code %d, stderr %q, error %v", code, stderr, err)
	}
	if got := n.Crictl("exec", c.ID, "cat", "/proc/1/comm"); got != "sh\n" {
		t.Errorf("crictl exec: %q", got)
	}
	if got := n.Crictl("logs", "--tail", "1", c.ID); !strings.HasPrefix(got, "count ") {
		t.Errorf("crictl logs: %q", got)
	}
	// What is started by exec goes with the container.
	if _, _, code, err := c.TryExec("/bin/sh", "-c", "sleep 1000 >/dev/null 2>&1 &"); err != nil || code != 0 {
		t.Errorf("exec: code %d, error %v", code, err)
	}
	c.Stop(0)
	c.WaitExited()
}

// TestRestoreLogRotation rotates the log of a restored container as the kubelet does (point 8).
func TestRestoreLogRotation(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	archive, counted := countingCheckpoint(t, n)
	c := n.Pod(t).Run("restored", archive)
	requireContinues(t, c, counted)
	rotated := c.LogFile() + ".1"
	if err := os.Rename(c.LogFile(), rotated); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Runtime().ReopenContainerLog(n.Context(),
		&runtime.ReopenContainerLogRequest{ContainerId: c.ID}); err != nil {
		t.Fatal(err)
	}
	fresh := numbers(c.WaitLog(func(lines []string) bool { return len(lines) >= 5 }), "count")
	before := strings.Fields(readFile(t, rotated))
	if got, want := before[len(before)-1], fresh[0]-1; got != strconv.Itoa(want) {
		t.Errorf("the old file ends with %s and the new one begins with %d", got, fresh[0])
	}
	for i, number := range fresh {
		if number != fresh[0]+i {
			t.Errorf("the new file has %v", fresh)
			break
		}
	}
}

// TestRestoreExit ends restored processes in each way there is (point 8).
func TestRestoreExit(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	img := workloadImage(t, n)
	restored := func(t *testing.T, opts ...harness.ContainerOpt) *harness.Container {
		t.Helper()
		pod := n.In(t).Pod(t)
		c := pod.Run("old", img, opts...)
		c.WaitLog(func(lines []string) bool { return len(lines) >= 2 })
		archive := checkpointOf(t, c)
		pod.Remove()
		r := n.In(t).Pod(t).Run("restored", archive)
		old := oldLines(t, r)
		r.WaitLog(func(lines []string) bool { return len(lines) > old })
		return r
	}
	t.Run("by itself", func(t *testing.T) {
		c := restored(t, harness.Shell(`i=0; while [ ! -e /go ]; do i=$((i+1)); echo "count $i"; sleep 0.1; done; echo bye; exit 9`))
		c.Exec("touch", "/go")
		status := c.WaitExited()
		if status.GetExitCode() != 9 || status.GetReason() != "Error" || status.GetFinishedAt() <= status.GetStartedAt() {
			t.Errorf("got %v", status)
		}
		if log := c.Log(); log[len(log)-1] != "bye" {
			t.Errorf("the last line is %q", log[len(log)-1])
		}
		// An ended container is removed like any other.
		c.Remove()
	})
	t.Run("with 0", func(t *testing.T) {
		c := restored(t, harness.Shell(`i=0; while [ ! -e /go ]; do i=$((i+1)); echo "count $i"; sleep 0.1; done`))
		c.Exec("touch", "/go")
		if status := c.WaitExited(); status.GetExitCode() != 0 || status.GetReason() != "Completed" {
			t.Errorf("got %v", status)
		}
	})
	t.Run("SIGTERM", func(t *testing.T) {
		c := restored(t, workload("trap"))
		before := time.Now()
		c.Stop(20 * time.Second)
		// It takes a second to end, and is given that.
		if status := c.WaitExited(); status.GetExitCode() != 7 || time.Since(before) < time.Second {
			t.Errorf("exit code %d after %v, want 7 after a second", status.GetExitCode(), time.Since(before))
		}
		c.WaitLine("got SIGTERM")
	})
	t.Run("SIGKILL after the grace period", func(t *testing.T) {
		c := restored(t, harness.Shell(`trap '' TERM; while :; do echo line; sleep 0.1; done`))
		before := time.Now()
		c.Stop(time.Second)
		if status := c.WaitExited(); status.GetExitCode() != 137 || time.Since(before) < time.Second {
			t.Errorf("exit code %d after %v, want 137 after a second", status.GetExitCode(), time.Since(before))
		}
	})
	t.Run("whole tree", func(t *testing.T) {
		c := restored(t, workload("tree"))
		group := cgroupDir(t, c, "memory")
		c.Stop(0)
		if status := c.WaitExited(); status.GetExitCode() != 137 {
			t.Errorf("exit code %d, want 137", status.GetExitCode())
		}
		c.Remove()
		if _, err := os.Stat(group); !os.IsNotExist(err) {
			t.Errorf("the cgroup is still there: error %v", err)
		}
	})
	t.Run("killed from outside", func(t *testing.T) {
		c := restored(t, harness.Counting())
		c.Exec("kill", "-9", "-1") // all of the PID namespace but its init and the caller
		proc, err := os.FindProcess(c.Pid())
		if err != nil {
			t.Fatal(err)
		}
		if err := proc.Kill(); err != nil {
			t.Fatal(err)
		}
		if status := c.WaitExited(); status.GetExitCode() != 137 || status.GetReason() != "Error" {
			t.Errorf("got %v, want 137, Error", status)
		}
	})
	t.Run("removed while it runs", func(t *testing.T) {
		before := n.Inventory(t)
		c := restored(t, harness.Counting())
		c.Remove()
		c.Pod.Remove()
		n.RequireNoLeak(t, before)
	})
}

// TestRestoreResources looks at statistics, limits and the OOM killer, which the stock shim
// loses for a restored process (point 8), before and after a restart of containerd.
func TestRestoreResources(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	img := workloadImage(t, n)
	const limit = 192 << 20
	pod := n.Pod(t)
	c := pod.Run("grow", img, workload("grow"), harness.MemoryLimit(limit))
	counted := waitOK(t, c, 2)
	archive := checkpointOf(t, c)
	pod.Remove()

	pod = n.Pod(t)
	ordinary := pod.Run("ordinary", n.Image(harness.Busybox), harness.Counting(), harness.MemoryLimit(limit))
	ordinary.WaitCount(1)
	restored := pod.Run("restored", archive, harness.MemoryLimit(limit), harness.Label("this", "one"))
	second := n.Pod(t).Run("second", archive, harness.MemoryLimit(limit))
	for _, c := range []*harness.Container{restored, second} {
		requireOKContinues(t, c, counted)
	}

	statistics := func(t *testing.T, running ...*harness.Container) {
		t.Helper()
		requireStats(t, "container", restored.Stats(), restored.ID, limit)
		list, err := n.Runtime().ListContainerStats(n.In(t).Context(), &runtime.ListContainerStatsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		byID := map[string]*runtime.ContainerStats{}
		for _, stats := range list.GetStats() {
			byID[stats.GetAttributes().GetId()] = stats
		}
		for _, c := range running {
			requireStats(t, "list of all", byID[c.ID], c.ID, limit)
		}
		list, err = n.Runtime().ListContainerStats(n.In(t).Context(), &runtime.ListContainerStatsRequest{
			Filter: &runtime.ContainerStatsFilter{LabelSelector: map[string]string{"this": "one"}},
		})
		if err != nil || len(list.GetStats()) != 1 {
			t.Fatalf("by label: %v, error %v, want one", list.GetStats(), err)
		}
		requireStats(t, "list by label", list.GetStats()[0], restored.ID, limit)
		sandbox, err := n.Runtime().PodSandboxStats(n.In(t).Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: pod.ID})
		if err != nil {
			t.Fatal(err)
		}
		byID = map[string]*runtime.ContainerStats{}
		for _, stats := range sandbox.GetStats().GetLinux().GetContainers() {
			byID[stats.GetAttributes().GetId()] = stats
		}
		requireStats(t, "pod", byID[restored.ID], restored.ID, limit)
		if got := n.Crictl("stats", "--output", "json", restored.ID); !strings.Contains(got, restored.ID) {
			t.Errorf("crictl stats: %s", got)
		}
	}
	t.Run("statistics", func(t *testing.T) { statistics(t, restored, second, ordinary) })
	t.Run("CPU time grows", func(t *testing.T) {
		before := second.Stats().GetCpu().GetUsageCoreNanoSeconds().GetValue()
		waitOK(t, second, waitOK(t, second, 1)+3)
		if after := second.Stats().GetCpu().GetUsageCoreNanoSeconds().GetValue(); after <= before {
			t.Errorf("%d ns after %d", after, before)
		}
	})
	t.Run("update", func(t *testing.T) {
		const lower = limit - 32<<20
		_, err := n.Runtime().UpdateContainerResources(n.In(t).Context(), &runtime.UpdateContainerResourcesRequest{
			ContainerId: restored.ID, Linux: &runtime.LinuxContainerResources{MemoryLimitInBytes: lower},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := memoryLimit(t, restored); got != lower {
			t.Errorf("memory limit: got %d, want %d", got, lower)
		}
		if got := restored.Status().GetResources().GetLinux().GetMemoryLimitInBytes(); got != lower {
			t.Errorf("memory limit in the status: got %d, want %d", got, lower)
		}
	})
	oom := func(c *harness.Container) func(*testing.T) {
		return func(t *testing.T) {
			c.Exec("touch", "/go")
			if status := c.WaitExited(); status.GetReason() != "OOMKilled" || status.GetExitCode() != 137 {
				t.Errorf("got reason %q, exit code %d, want OOMKilled, 137", status.GetReason(), status.GetExitCode())
			}
		}
	}
	t.Run("OOM kill", oom(second))
	n.Restart()
	t.Run("statistics after a restart of containerd", func(t *testing.T) { statistics(t, restored, ordinary) })
	t.Run("OOM kill after a restart of containerd", oom(restored))
}

func requireStats(t *testing.T, where string, stats *runtime.ContainerStats, id string, limit uint64) {
	t.Helper()
	if stats == nil {
		t.Errorf("%s: no statistics of %s", where, id)
		return
	}
	if got := stats.GetAttributes().GetId(); got != id {
		t.Errorf("%s: statistics of %s, want %s", where, got, id)
	}
	if got := stats.GetMemory().GetWorkingSetBytes().GetValue(); got == 0 || got > limit {
		t.Errorf("%s: working set of %d bytes, want some and at most %d", where, got, limit)
	}
	if got := stats.GetMemory().GetUsageBytes().GetValue(); got == 0 || got > limit {
		t.Errorf("%s: %d bytes of memory, want some and at most %d", where, got, limit)
	}
	if got := stats.GetCpu().GetUsageCoreNanoSeconds().GetValue(); got == 0 {
		t.Errorf("%s: no CPU time", where)
	}
}
