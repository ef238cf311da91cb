package integration

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestOrdinaryContainer takes a container through its whole life on our build: with
// the plugin compiled in, nothing may be different from the stock containerd.
func TestOrdinaryContainer(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	before := n.Inventory(t)
	pod := n.Pod(t, harness.PodLabel("app", "counter"))
	c := pod.Create("counter", n.Image(harness.Busybox), harness.Counting(),
		harness.Env("FROM", "request"), harness.Label("tier", "test"), harness.Attempt(3))
	if got := c.Status().GetState(); got != runtime.ContainerState_CONTAINER_CREATED {
		t.Errorf("state after create: got %s, want CREATED", got)
	}
	c.Start()
	c.WaitCount(5)

	status := c.Status()
	if got := status.GetState(); got != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("state after start: got %s, want RUNNING", got)
	}
	if got := status.GetMetadata(); got.GetName() != "counter" || got.GetAttempt() != 3 {
		t.Errorf("metadata: got %v, want counter, attempt 3", got)
	}
	if got := status.GetLabels()["tier"]; got != "test" {
		t.Errorf("label: got %q, want test", got)
	}
	if got := status.GetImage().GetImage(); got != n.Image(harness.Busybox) {
		t.Errorf("image: got %q, want %q", got, n.Image(harness.Busybox))
	}
	if got := strings.TrimSpace(c.Exec("/bin/sh", "-c", "echo $FROM")); got != "request" {
		t.Errorf("environment in exec: got %q, want request", got)
	}
	if _, _, code, err := c.TryExec("/bin/sh", "-c", "exit 7"); err != nil || code != 7 {
		t.Errorf("exec of exit 7: got code %d, error %v", code, err)
	}
	if cmdline, err := os.ReadFile(path.Join("/proc", strconv.Itoa(c.Pid()), "cmdline")); err != nil ||
		!strings.Contains(string(cmdline), "count $i") {
		t.Errorf("command line of pid %d: got %q, error %v", c.Pid(), cmdline, err)
	}

	c.Remove()
	pod.Remove()
	n.RequireNoLeak(t, before)
}

func TestOrdinaryExitCode(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	image := n.Image(harness.Busybox)

	failed := pod.Run("failed", image, harness.Shell("echo bye >&2; exit 42"))
	status := failed.WaitExited()
	if status.GetExitCode() != 42 || status.GetReason() != "Error" {
		t.Errorf("exit 42: got code %d, reason %q", status.GetExitCode(), status.GetReason())
	}
	if lines := failed.LogLines(); len(lines) != 1 || lines[0].Stream != "stderr" || lines[0].Text != "bye" {
		t.Errorf("log: got %+v, want bye on stderr", lines)
	}

	graceful := pod.Run("graceful", image, harness.Shell("trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done"))
	graceful.WaitLine("ready")
	graceful.Stop(20 * time.Second)
	if got := graceful.WaitExited().GetExitCode(); got != 5 {
		t.Errorf("exit code after SIGTERM: got %d, want 5", got)
	}

	stubborn := pod.Run("stubborn", image, harness.Shell("trap '' TERM; echo ready; while :; do sleep 0.1; done"))
	stubborn.WaitLine("ready")
	stubborn.Stop(time.Second)
	if got := stubborn.WaitExited().GetExitCode(); got != 137 {
		t.Errorf("exit code after SIGKILL: got %d, want 137", got)
	}
}

func TestOrdinaryStats(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	const limit = 64 << 20
	c := n.Pod(t).Run("counter", n.Image(harness.Busybox), harness.Counting(), harness.MemoryLimit(limit))
	c.WaitCount(3)
	stats := c.Stats()
	if got := stats.GetAttributes().GetId(); got != c.ID {
		t.Errorf("stats of container %q, want %q", got, c.ID)
	}
	if got := stats.GetCpu().GetUsageCoreNanoSeconds().GetValue(); got == 0 {
		t.Error("stats: no CPU time")
	}
	if got := stats.GetMemory().GetWorkingSetBytes().GetValue(); got == 0 || got > limit {
		t.Errorf("stats: working set of %d bytes, want some and at most %d", got, limit)
	}
	if got := n.Crictl("stats", "--output", "json", c.ID); !strings.Contains(got, c.ID) {
		t.Errorf("crictl stats does not show %s: %s", c.ID, got)
	}
}

// TestOrdinaryOOM shows what a container without memory looks like, for the tests of
// restored ones to compare with.
func TestOrdinaryOOM(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	c := n.Pod(t).Run("greedy", n.Image(harness.Busybox), harness.MemoryLimit(16<<20),
		harness.Shell("x=0123456789abcdef; while :; do x=$x$x; done"))
	status := c.WaitExited()
	if status.GetReason() != "OOMKilled" || status.GetExitCode() != 137 {
		t.Errorf("got reason %q, exit code %d, want OOMKilled, 137", status.GetReason(), status.GetExitCode())
	}
}

// TestOrdinaryRestart restarts containerd, politely and not, under a running container.
func TestOrdinaryRestart(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	c := n.Pod(t).Run("counter", n.Image(harness.Busybox), harness.Counting())
	c.WaitCount(3)
	pid := c.Pid()
	for _, restart := range []struct {
		name string
		down func()
	}{{"SIGTERM", n.Stop}, {"SIGKILL", n.Kill}} {
		restart.down()
		at := harness.Count(c.Log())
		// containerd writes the log, from a pipe that the shim keeps open: without it
		// the process goes on until the pipe is full, and its lines come afterwards.
		n.Start()
		if got := c.Pid(); got != pid {
			t.Errorf("%s: pid %d, want %d still", restart.name, got, pid)
		}
		if got := c.Status().GetState(); got != runtime.ContainerState_CONTAINER_RUNNING {
			t.Errorf("%s: state %s, want RUNNING", restart.name, got)
		}
		c.WaitCount(at + 5)
	}
	c.Stop(0)
	if got := c.WaitExited().GetExitCode(); got != 137 {
		t.Errorf("exit code: got %d, want 137", got)
	}
}

// TestOrdinaryCheckpoint checkpoints through CRI, twice, and looks into the archives.
func TestOrdinaryCheckpoint(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	c := n.Pod(t).Run("counter", n.Image(harness.Busybox), harness.Counting())
	at := c.WaitCount(3)
	for range 2 {
		before := n.Inventory(t)
		archive := c.Checkpoint("")
		n.RequireNoLeak(t, before)
		names := tarNames(t, archive)
		for _, want := range []string{"config.dump", "spec.dump", "status.dump", "checkpoint/inventory.img",
			"checkpoint/pstree.img"} {
			if !names[want] {
				t.Errorf("%s has no %s, but %v", archive, want, names)
			}
		}
		if got := c.Status().GetState(); got != runtime.ContainerState_CONTAINER_RUNNING {
			t.Errorf("state after the checkpoint: got %s, want RUNNING", got)
		}
		at = c.WaitCount(at + 5)
	}
}

// TestOrdinarySnapshotterAndRuncRoot runs what differs from the other tests' defaults.
func TestOrdinarySnapshotterAndRuncRoot(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithSnapshotter("native"), harness.WithSharedRuncRoot())
	c := n.Pod(t).Run("counter", n.Image(harness.Busybox), harness.Counting())
	c.WaitCount(3)
	if _, err := os.Stat(path.Join("/run/containerd/runc/k8s.io", c.ID, "state.json")); err != nil {
		t.Errorf("runc's state in its default place: %v", err)
	}
	c.Checkpoint("")
}

// TestOrdinaryModes checks, from the host and from inside, that each way to ask for
// something other than the defaults has the effect that it has on a stock containerd.
func TestOrdinaryModes(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	image := n.Image(harness.Busybox)
	const wait = "; echo done; while :; do sleep 1; done"

	t.Run("pod network, private PID", func(t *testing.T) {
		pod := n.Pod(t)
		c := pod.Run("c", image, harness.Shell("echo pid $$"+wait))
		c.WaitLine("done")
		if got := c.Log()[0]; got != "pid 1" {
			t.Errorf("got %q, want pid 1", got)
		}
		if pod.IP() == "" || !strings.Contains(c.Exec("ip", "addr"), pod.IP()+"/") {
			t.Errorf("address %q is not in %s", pod.IP(), c.Exec("ip", "addr"))
		}
		if sameNamespace(t, c, "net") || sameNamespace(t, c, "pid") {
			t.Error("the container shares the host's network or PID namespace")
		}
	})
	t.Run("host network", func(t *testing.T) {
		c := n.Pod(t, harness.PodHostNetwork()).Run("c", image, harness.Counting())
		if !sameNamespace(t, c, "net") {
			t.Error("the container is not on the host's network")
		}
	})
	t.Run("shared PID", func(t *testing.T) {
		pod := n.Pod(t, harness.PodSharedPID())
		one := pod.Run("one", image, harness.Counting())
		two := pod.Run("two", image, harness.Counting())
		if namespace(t, one, "pid") != namespace(t, two, "pid") || sameNamespace(t, one, "pid") {
			t.Error("the pod's containers do not have one PID namespace of their own")
		}
	})
	t.Run("host PID", func(t *testing.T) {
		c := n.Pod(t, harness.PodHostPID()).Run("c", image, harness.Counting())
		if !sameNamespace(t, c, "pid") {
			t.Error("the container is not in the host's PID namespace")
		}
	})
	t.Run("terminal", func(t *testing.T) {
		c := n.Pod(t).Run("c", image, harness.Tty(), harness.Stdin(), harness.Shell("tty"+wait))
		c.WaitLine("/dev/pts/0")
	})
	t.Run("security and directories", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(path.Join(dir, "file"), []byte("from the host\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		c := n.Pod(t).Run("c", image, harness.User(1000), harness.ReadonlyRootfs(), harness.Mount(dir, "/mnt", true),
			harness.WorkingDir("/data"), harness.Shell("id -u; cat /mnt/file; pwd; touch /new; touch /mnt/new"+wait))
		c.WaitLine("done")
		log := strings.Join(c.Log(), "\n")
		for _, want := range []string{"1000\n", "from the host\n", "/data\n", "/new: Read-only", "/mnt/new: Read-only"} {
			if !strings.Contains(log, want) {
				t.Errorf("no %q in %q", want, log)
			}
		}
	})
	t.Run("cgroup parent", func(t *testing.T) {
		c := n.Pod(t, harness.PodCgroup("elsewhere")).Run("c", image, harness.Counting())
		cgroups, err := os.ReadFile(path.Join("/proc", strconv.Itoa(c.Pid()), "cgroup"))
		if want := n.ContainerCgroup("elsewhere", c.ID); err != nil || !strings.Contains(string(cgroups), want) {
			t.Errorf("no %s in %s, error %v", want, cgroups, err)
		}
	})
}

// TestOrdinaryWithoutCRIU is a node that cannot restore: its ordinary containers run.
func TestOrdinaryWithoutCRIU(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithCRIU(false))
	c := n.Pod(t).Run("counter", n.Image(harness.Busybox), harness.Counting())
	at := c.WaitCount(3)
	if err := c.TryCheckpoint(path.Join(n.Dir(), "checkpoint.tar")); err == nil {
		t.Error("a checkpoint was written without CRIU")
	}
	n.Reconfigure(harness.WithCRIU(true))
	c.WaitCount(at + 3)
	// A shim keeps the PATH that it was started with: CRIU is there for new pods only.
	after := n.Pod(t).Run("counter", n.Image(harness.Busybox), harness.Counting())
	after.WaitCount(3)
	after.Checkpoint("")
}

func namespace(t *testing.T, c *harness.Container, kind string) string {
	t.Helper()
	link, err := os.Readlink(path.Join("/proc", strconv.Itoa(c.Pid()), "ns", kind))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// sameNamespace says whether a container is in this process's, the host's, namespace.
func sameNamespace(t *testing.T, c *harness.Container, kind string) bool {
	t.Helper()
	host, err := os.Readlink(path.Join("/proc/self/ns", kind))
	if err != nil {
		t.Fatal(err)
	}
	return namespace(t, c, kind) == host
}

func tarNames(t *testing.T, file string) map[string]bool {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names := map[string]bool{}
	for tr := tar.NewReader(f); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		names[path.Clean(header.Name)] = true
	}
}
