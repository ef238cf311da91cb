package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// restorePlugin is the name of the plugin's folders below root and state.
const restorePlugin = "io.containerd.cri.v1.restore"

// TestCrashBeforeStart kills containerd between create and start, and then lets
// the plugin's state go as it does in a reboot of the node.
func TestCrashBeforeStart(t *testing.T) {
	t.Parallel()
	for _, snapshotter := range []string{"overlayfs", "native"} {
		t.Run(snapshotter, func(t *testing.T) {
			n := harness.New(t, harness.WithRestoreConfig(allowArchives), harness.WithSnapshotter(snapshotter))
			archive, counted := countingCheckpoint(t, n)
			ref := imageOf(t, n, archive)
			pod := n.Pod(t)
			before := n.Inventory(t)
			for _, crash := range []struct {
				name string
				do   func()
			}{
				{"killed", n.Kill},
				{"killed twice", func() { n.Kill(); n.Start(); n.Kill() }},
				{"rebooted", func() { n.Kill(); loseState(t, n) }},
			} {
				made := n.Inventory(t)
				cs := []*harness.Container{pod.Create("archive", archive), pod.Create("image", ref)}
				ready := n.Inventory(t)
				crash.do()
				n.Start()
				if crash.name != "rebooted" {
					// What the start needs was kept, and nothing came.
					now := n.Inventory(t)
					if got, lost := now.Diff(ready), ready.Diff(now); len(got)+len(lost) > 0 {
						t.Errorf("%s: after the start there is also %q, and gone is %q", crash.name, got, lost)
					}
				}
				for _, c := range cs {
					if got := c.Status().GetState(); got != runtime.ContainerState_CONTAINER_CREATED {
						t.Errorf("%s: state %s, want CREATED", crash.name, got)
					}
				}
				cs[1].Start()
				requireContinues(t, cs[1], counted)
				cs[1].Remove()
				forgetLog(t, cs[1])
				if crash.name != "killed" {
					cs[0].Start()
					requireContinues(t, cs[0], counted)
				}
				// One that was never started goes without a trace too.
				cs[0].Remove()
				forgetLog(t, cs[0])
				n.RequireNoLeak(t, made)
			}
			n.RequireNoLeak(t, before)
		})
	}
}

// loseState takes away what a reboot takes of the plugin: its mounts and its state folder.
func loseState(t *testing.T, n *harness.Node) {
	t.Helper()
	dir := filepath.Join(n.State(), restorePlugin)
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	if len(mounts) == 0 {
		t.Fatal("no view is mounted")
	}
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// TestCrashWhileRunning restarts containerd under restored containers: they run on, and
// what it stands in for, statistics and OOM kills, works as before.
func TestCrashWhileRunning(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	img := workloadImage(t, n)
	checkpoints := map[string]string{}
	for _, mode := range []string{"threads", "trap", "grow"} {
		pod := n.Pod(t)
		c := pod.Run(mode, img, workload(mode))
		waitOK(t, c, 2)
		checkpoints[mode] = checkpointOf(t, c)
		pod.Remove()
	}
	pod := n.Pod(t)
	before := n.Inventory(t)
	run := func(mode string, name string) *harness.Container {
		c := pod.Run(name, checkpoints[mode], workload(mode), harness.MemoryLimit(256<<20))
		requireOKContinues(t, c, 1)
		return c
	}
	threads, trap, killed, grow := run("threads", "threads"), run("trap", "trap"), run("threads", "killed"),
		run("grow", "grow")
	all := []*harness.Container{threads, trap, killed, grow}
	pids := map[string]int{}
	for _, c := range all {
		pids[c.ID] = c.Pid()
	}
	running := n.Inventory(t)
	for _, down := range []func(){n.Stop, n.Kill} {
		down()
		n.Start()
		now := n.Inventory(t)
		if got, lost := now.Diff(running), running.Diff(now); len(got)+len(lost) > 0 {
			t.Errorf("after the restart there is also %q, and gone is %q", got, lost)
		}
		for _, c := range all {
			name := c.Config.GetMetadata().GetName()
			if got := c.Status().GetState(); got != runtime.ContainerState_CONTAINER_RUNNING {
				t.Errorf("%s: %s after the restart, want RUNNING", name, got)
			}
			if got := c.Pid(); got != pids[c.ID] {
				t.Errorf("%s: pid %d after the restart, want %d", name, got, pids[c.ID])
			}
			at := numbers(c.Log(), "ok")
			waitOK(t, c, at[len(at)-1]+2)
			stats := c.Stats()
			if stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 ||
				stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
				t.Errorf("%s: no statistics after the restart: %v", name, stats)
			}
			if got := strings.TrimSpace(c.Exec("echo", "here")); got != "here" {
				t.Errorf("%s: exec after the restart: %q", name, got)
			}
		}
	}
	// An end that containerd does not see. What it then says of an ordinary container it
	// has to say of a restored one.
	ordinary := pod.Run("ordinary", img, workload("threads"))
	all = append(all, ordinary)
	waitOK(t, ordinary, 1)
	pids[ordinary.ID] = ordinary.Pid()
	n.Kill()
	for _, c := range []*harness.Container{killed, ordinary} {
		if err := unix.Kill(pids[c.ID], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	n.Start()
	got, want := killed.WaitExited(), ordinary.WaitExited()
	if got.GetExitCode() != want.GetExitCode() || got.GetReason() != want.GetReason() {
		t.Errorf("killed while containerd was away: %d, %s; an ordinary container: %d, %s",
			got.GetExitCode(), got.GetReason(), want.GetExitCode(), want.GetReason())
	}
	grow.Exec("touch", "/go")
	if got := grow.WaitExited(); got.GetReason() != "OOMKilled" || got.GetExitCode() != 137 {
		t.Errorf("out of memory: %s, %d, want OOMKilled, 137", got.GetReason(), got.GetExitCode())
	}
	trap.Stop(20 * time.Second)
	if got := trap.WaitExited(); got.GetExitCode() != 7 {
		t.Errorf("stopped: exit code %d, want 7", got.GetExitCode())
	}
	threads.Stop(0)
	if got := threads.WaitExited(); got.GetExitCode() != 137 {
		t.Errorf("stopped at once: exit code %d, want 137", got.GetExitCode())
	}
	for _, c := range all {
		c.Remove()
	}
	n.RequireNoLeak(t, before)
}
