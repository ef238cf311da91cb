package integration

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestRestoreIsolation restores a container, one with child processes, into a pod in which
// everything is different, and looks at each thing that the pod and the request have to
// decide (points 5 and 7).
func TestRestoreIsolation(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	img := workloadImage(t, n)
	const oldLimit, newLimit = 128 << 20, 96 << 20
	oldVolume, newVolume := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(oldVolume, "file"), "old volume\n")
	writeFile(t, filepath.Join(newVolume, "file"), "new volume\n")

	limits := func(s *harness.PodSpec) { s.Config.Linux.Sysctls = map[string]string{"kernel.msgmax": "12345"} }
	oldPod := n.Pod(t, podHost("old-host", "10.9.9.1"), harness.PodCgroup("old/parent"), limits)
	old := oldPod.Run("tree", img, workload("tree"), harness.MemoryLimit(oldLimit),
		harness.Mount(oldVolume, "/mnt", false))
	counted := waitOK(t, old, 3)
	// What several containers of a pod have in common is in no checkpoint of one of them.
	oldPod.Run("beside", n.Image(harness.Busybox), harness.Counting())
	old.Exec("/bin/sh", "-c", "echo old > /dev/shm/old")
	archive := checkpointOf(t, old)
	oldIP := oldPod.IP()
	oldPod.Remove()
	name := imageOf(t, n, archive)
	before := n.Inventory(t)

	pod := n.Pod(t, podHost("new-host", "10.9.9.2"), harness.PodCgroup("new/parent"))
	neighbour := pod.Run("neighbour", n.Image(harness.Busybox), harness.Counting())
	neighbour.Exec("/bin/sh", "-c", "echo new > /dev/shm/new")
	msgmax := neighbour.Exec("cat", "/proc/sys/kernel/msgmax")
	if msgmax == "12345\n" {
		t.Fatal("the new pod has the limits of the old one")
	}
	c := pod.Run("restored", name, harness.MemoryLimit(newLimit), harness.Mount(newVolume, "/mnt", false),
		harness.Resources(func(r *runtime.LinuxContainerResources) { r.CpuShares = 512 }))
	requireOKContinues(t, c, counted)

	t.Run("namespaces", func(t *testing.T) {
		for _, kind := range []string{"net", "ipc", "uts"} {
			if got, want := namespace(t, c, kind), namespace(t, neighbour, kind); got != want {
				t.Errorf("%s: got %s, want the pod's %s", kind, got, want)
			}
		}
		for _, kind := range []string{"pid", "mnt"} {
			if namespace(t, c, kind) == namespace(t, neighbour, kind) || sameNamespace(t, c, kind) {
				t.Errorf("%s: the container has none of its own", kind)
			}
		}
	})
	t.Run("network", func(t *testing.T) {
		if ip := pod.IP(); ip == oldIP || !strings.Contains(c.Exec("ip", "addr"), ip+"/") {
			t.Errorf("address %s, before %s: %s", ip, oldIP, c.Exec("ip", "addr"))
		}
		for file, want := range map[string]string{"/etc/resolv.conf": "nameserver 10.9.9.2", "/etc/hostname": "new-host"} {
			if got := c.Exec("cat", file); !strings.Contains(got, want) {
				t.Errorf("%s: %q, want %s", file, got, want)
			}
		}
		// CRIU joins the pod's UTS namespace, and must not rename the pod.
		for _, c := range []*harness.Container{c, neighbour} {
			if got := strings.TrimSpace(c.Exec("hostname")); got != "new-host" {
				t.Errorf("hostname in %s: got %q, want new-host", c.Config.GetMetadata().GetName(), got)
			}
		}
	})
	t.Run("shared memory", func(t *testing.T) {
		if got := c.Exec("ls", "/dev/shm"); got != "new\n" {
			t.Errorf("/dev/shm has %q, want what is in the new pod's", got)
		}
		c.Exec("/bin/sh", "-c", "echo restored > /dev/shm/restored")
		if got := neighbour.Exec("cat", "/dev/shm/restored"); got != "restored\n" {
			t.Errorf("the neighbour reads %q", got)
		}
	})
	t.Run("limits of IPC", func(t *testing.T) {
		if got := neighbour.Exec("cat", "/proc/sys/kernel/msgmax"); got != msgmax {
			t.Errorf("kernel.msgmax of the pod: got %s, before the restore %s", got, msgmax)
		}
	})
	t.Run("volume", func(t *testing.T) {
		if got := c.Exec("cat", "/mnt/file"); got != "new volume\n" {
			t.Errorf("/mnt/file: %q", got)
		}
		c.Exec("touch", "/mnt/touched")
		if _, err := os.Stat(filepath.Join(newVolume, "touched")); err != nil {
			t.Error(err)
		}
		if got := readFile(t, filepath.Join(oldVolume, "file")); got != "old volume\n" {
			t.Errorf("the old volume has %q", got)
		}
	})
	t.Run("cgroup", func(t *testing.T) {
		want := n.ContainerCgroup("new/parent", c.ID)
		pids := strings.Fields(readFile(t, filepath.Join(cgroupDir(t, c, "memory"), "cgroup.procs")))
		if len(pids) != 3 {
			t.Errorf("processes in %s: %v, want all three of the tree", want, pids)
		}
		for _, pid := range pids {
			for _, line := range strings.Split(strings.TrimSpace(readFile(t, filepath.Join("/proc", pid, "cgroup"))), "\n") {
				group := line[strings.LastIndex(line, ":")+1:]
				// A hierarchy that runc does not use, if there is one, leaves everybody where containerd is.
				if strings.HasPrefix(group, n.CgroupRoot()) && group != want || strings.Contains(group, old.ID) {
					t.Errorf("process %s: %s, want %s", pid, line, want)
				}
			}
		}
		if got := memoryLimit(t, c); got != newLimit {
			t.Errorf("memory limit: got %d, want %d", got, newLimit)
		}
		if unified() {
			return
		}
		if got := strings.TrimSpace(readFile(t, filepath.Join(cgroupDir(t, c, "cpu"), "cpu.shares"))); got != "512" {
			t.Errorf("CPU shares: got %s, want 512", got)
		}
	})
	requireOKContinues(t, c, counted)
	pod.Remove()
	n.RequireNoLeak(t, before)
}

// TestRestoreListener restores a process that listens on TCP: it answers at the new
// pod's address, and has not forgotten how often it did before (points 6 and 7).
func TestRestoreListener(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	c := pod.Run("listen", workloadImage(t, n), workload("listen", "0.0.0.0:8080"))
	counted := waitOK(t, c, 1)
	for i := range 3 {
		if got, want := ask(t, pod.IP()), fmt.Sprintf("connection %d of pid 1\n", i+1); got != want {
			t.Fatalf("before the checkpoint: got %q, want %q", got, want)
		}
	}
	archive := checkpointOf(t, c)
	// The old one goes on, at its own address.
	name := imageOf(t, n, archive)
	newPod := n.Pod(t)
	restored := newPod.Run("restored", name)
	requireOKContinues(t, restored, counted)
	if newPod.IP() == pod.IP() {
		t.Fatalf("both pods have address %s", pod.IP())
	}
	for _, p := range []*harness.Pod{newPod, pod} {
		if got, want := ask(t, p.IP()), "connection 4 of pid 1\n"; got != want {
			t.Errorf("at %s: got %q, want %q", p.IP(), got, want)
		}
	}
}

func ask(t *testing.T, ip string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip, "8080"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// podHost gives a pod a host name and a name server.
func podHost(name, server string) harness.PodOpt {
	return func(s *harness.PodSpec) {
		s.Config.Hostname = name
		s.Config.DnsConfig = &runtime.DNSConfig{Servers: []string{server}}
	}
}

// unified says whether the machine has cgroup v2 only.
func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// cgroupDir is the container's cgroup in a controller's hierarchy.
func cgroupDir(t *testing.T, c *harness.Container, controller string) string {
	t.Helper()
	for _, line := range strings.Split(readFile(t, filepath.Join("/proc", strconv.Itoa(c.Pid()), "cgroup")), "\n") {
		fields := strings.SplitN(line, ":", 3)
		if len(fields) < 3 {
			continue
		}
		if unified() {
			return filepath.Join("/sys/fs/cgroup", fields[2])
		}
		for _, name := range strings.Split(fields[1], ",") {
			if name == controller {
				return filepath.Join("/sys/fs/cgroup", controller, fields[2])
			}
		}
	}
	t.Fatalf("container %s is in no cgroup of %s", c.ID, controller)
	return ""
}

// memoryLimit is what the kernel says, in bytes.
func memoryLimit(t *testing.T, c *harness.Container) int64 {
	t.Helper()
	file := "memory.limit_in_bytes"
	if unified() {
		file = "memory.max"
	}
	limit, err := strconv.ParseInt(strings.TrimSpace(readFile(t, filepath.Join(cgroupDir(t, c, "memory"), file))), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return limit
}

func writeFile(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
