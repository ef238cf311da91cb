package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// percent gives a container so much of one processor. The page server is in the container's cgroup: with little
// of it the arrival of memory lasts.
func percent(t *testing.T, c *harness.Container, of int64) {
	t.Helper()
	quota := of * 1000
	if of == 0 {
		quota = -1
	}
	_, err := c.Pod.Node().Runtime().UpdateContainerResources(t.Context(), &runtime.UpdateContainerResourcesRequest{
		ContainerId: c.ID, Linux: &runtime.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: quota},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// unthrottle is percent without limits for a container whose shim is dead. containerd gives what it kills five seconds
// to end (io.containerd.timeout.shim.cleanup), and the kernel frees its memory at its own expense.
func unthrottle(t *testing.T, c *harness.Container) {
	t.Helper()
	pattern, unlimited := "/sys/fs/cgroup/cpu*/*/*/*"+c.ID+"*/cpu.cfs_quota_us", "-1"
	if unified() {
		pattern, unlimited = "/sys/fs/cgroup/*/*/*"+c.ID+"*/cpu.max", "max"
	}
	groups, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) == 0 && len(inCgroupOf(c.ID)) > 0 {
		t.Fatalf("no cgroup of container %s matches %s", c.ID, pattern)
	}
	for _, file := range groups {
		if err := os.WriteFile(file, []byte(unlimited), 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) &&
			!errors.Is(err, unix.ENODEV) {
			t.Fatal(err)
		}
	}
}

// argument finds a process by its arguments, 0 for none.
func argument(match func(args []string) bool) (found int) {
	processes(func(pid int, dir string) bool {
		content, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if match(strings.Split(string(content), "\x00")) {
			found = pid
		}
		return found == 0
	})
	return found
}

// supervisorOf is the supervisor of a container's page server.
func supervisorOf(c *harness.Container) int {
	return argument(func(args []string) bool {
		return filepath.Base(args[0]) == "restore-pages" && slices.Contains(args, c.ID)
	})
}

// serverOf is the page server itself, which is in the container's cgroup.
func serverOf(c *harness.Container) (found int) {
	for _, pid := range inCgroupOf(c.ID) {
		content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if bytes.Contains(content, []byte("\x00lazy-pages\x00")) {
			found = pid
		}
	}
	return found
}

func shimOf(c *harness.Container) int {
	return argument(func(args []string) bool {
		return filepath.Base(args[0]) == "containerd-shim-runc-v2" && slices.Contains(args, c.Pod.ID)
	})
}

func killProcess(t *testing.T, what string, pid int) {
	t.Helper()
	if pid == 0 {
		t.Fatalf("no %s to kill: memory has arrived already", what)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatalf("kill %s: %v", what, err)
	}
}

// requireKilled waits for the end of a container whose memory did not arrive, and checks what is said of it. It
// must not have seen wrong memory.
func requireKilled(t *testing.T, c *harness.Container, says string) {
	t.Helper()
	st := c.WaitExited()
	if st.GetExitCode() == 0 || st.GetReason() != "RestoreError" || !strings.Contains(st.GetMessage(), says) {
		t.Errorf("status: exit code %d, %s, %q, want another, RestoreError, %q", st.GetExitCode(), st.GetReason(),
			st.GetMessage(), says)
	}
	if text := bad(c.Log()); text != "" {
		t.Errorf("the process has seen memory that never was: %s", text)
	}
	eventually(t, "the end of all processes", func() bool { return len(inCgroupOf(c.ID)) == 0 && supervisorOf(c) == 0 })
}

// forgetSockets removes the shims' sockets that were not there before.
func forgetSockets(t *testing.T, n *harness.Node, before harness.Inventory) {
	t.Helper()
	for _, file := range n.Inventory(t).Keys(harness.KindFile) {
		if filepath.Dir(file) == filepath.Join(filepath.Dir(n.State()), "s") &&
			!slices.Contains(before.Keys(harness.KindFile), file) {
			if err := os.Remove(file); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestLazyCrash kills each part of a lazy restore while memory arrives, and stops, removes and checkpoints the
// container then.
func TestLazyCrash(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(lazyOn))
	// So much that it is still arriving when the start has returned: until then the page server is in no cgroup that holds
	// it back.
	archive, counted := pagesCheckpoint(t, n, "1024", "1", "fork")
	image := publishedImageOf(t, n, archive, "")

	for _, tc := range []struct {
		name string
		act  func(t *testing.T, n *harness.Node, c *harness.Container)
		runs bool // afterwards, until it is removed
	}{
		{"page server", func(t *testing.T, _ *harness.Node, c *harness.Container) {
			killProcess(t, "page server", serverOf(c))
			requireKilled(t, c, "killed by signal 9")
		}, false},
		{"supervisor", func(t *testing.T, _ *harness.Node, c *harness.Container) {
			killProcess(t, "supervisor", supervisorOf(c))
			requireKilled(t, c, "supervisor of the page server was killed")
		}, false},
		{"page server without containerd", func(t *testing.T, n *harness.Node, c *harness.Container) {
			n.Kill()
			killProcess(t, "page server", serverOf(c))
			eventually(t, "the end of all processes", func() bool { return len(inCgroupOf(c.ID)) == 0 })
			n.Start()
			requireKilled(t, c, "killed by signal 9")
		}, false},
		{"supervisor without containerd", func(t *testing.T, n *harness.Node, c *harness.Container) {
			n.Kill()
			killProcess(t, "supervisor", supervisorOf(c))
			n.Start()
			if serverOf(c) == 0 && c.Status().GetState() == runtime.ContainerState_CONTAINER_RUNNING {
				return // all memory had arrived before containerd looked
			}
			requireKilled(t, c, "supervisor were killed")
		}, false},
		{"containerd", func(_ *testing.T, n *harness.Node, _ *harness.Container) { n.Kill(); n.Start() }, true},
		{"containerd restarts", func(_ *testing.T, n *harness.Node, _ *harness.Container) { n.Restart() }, true},
		{"shim", func(t *testing.T, _ *harness.Node, c *harness.Container) {
			killProcess(t, "shim", shimOf(c))
			unthrottle(t, c)
			c.WaitExited()
			if text := bad(c.Log()); text != "" {
				t.Errorf("the process has seen memory that never was: %s", text)
			}
		}, false},
		{"stop", func(t *testing.T, _ *harness.Node, c *harness.Container) {
			c.Stop(0)
			if st := c.Status(); st.GetReason() == "RestoreError" {
				t.Errorf("a container that was stopped: %s", st.GetMessage())
			}
		}, false},
		{"remove", func(*testing.T, *harness.Node, *harness.Container) {}, false},
		{"checkpoint", func(t *testing.T, _ *harness.Node, c *harness.Container) {
			file := filepath.Join(c.Pod.Node().Dir(), unique("checkpoint")+".tar")
			done := make(chan error, 1)
			go func() { done <- c.TryCheckpoint(file) }()
			select {
			case err := <-done:
				t.Fatalf("the checkpoint did not wait for the memory: %v", err)
			case <-time.After(500 * time.Millisecond):
			}
			if serverOf(c) == 0 {
				t.Error("the memory has arrived already")
			}
			percent(t, c, 0)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(file); err != nil {
				t.Error(err)
			}
		}, true},
	} {
		for _, wait := range []time.Duration{0, 300 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s after %v", tc.name, wait), func(t *testing.T) {
				n := n.In(t)
				before := n.Inventory(t)
				pod := n.Pod(t)
				c := pod.Run("restored", image)
				percent(t, c, 2)
				<-time.After(wait)
				tc.act(t, n, c)
				if tc.runs {
					percent(t, c, 0)
					at := requireOKContinues(t, c, counted)
					waitDrained(t, c)
					waitOK(t, c, at+1)
				}
				c.Remove()
				pod.Remove()
				if tc.name == "shim" {
					forgetSockets(t, n, before) // a shim that was killed leaves them, whatever it ran
				}
				n.RequireNoLeak(t, before)
			})
		}
	}

	t.Run("read error", func(t *testing.T) {
		n := n.In(t)
		before := n.Inventory(t)
		pod := n.Pod(t)
		c := pod.Run("restored", archive)
		percent(t, c, 2)
		files, err := filepath.Glob(filepath.Join(n.Root(), restorePlugin, "*", "archive", "checkpoint", "pages-*.img"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no pages: %v", err)
		}
		for _, f := range files {
			if err := os.Truncate(f, 0); err != nil {
				t.Fatal(err)
			}
		}
		requireKilled(t, c, "exited with status 1")
		if message := c.Status().GetMessage(); !strings.Contains(message, "CRIU says: ") {
			t.Errorf("message %q", message)
		}
		pod.Remove()
		n.RequireNoLeak(t, before)
	})
}
