package harness

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// observer is a test whose failures another test expects.
type observer struct {
	testing.TB
	errors   []string
	cleanups []func()
}

func (o *observer) Helper()                   {}
func (o *observer) Cleanup(f func())          { o.cleanups = append(o.cleanups, f) }
func (o *observer) Failed() bool              { return len(o.errors) > 0 }
func (o *observer) Logf(string, ...any)       {}
func (o *observer) Errorf(f string, a ...any) { o.errors = append(o.errors, fmt.Sprintf(f, a...)) }

func (o *observer) end() {
	for len(o.cleanups) > 0 {
		last := len(o.cleanups) - 1
		f := o.cleanups[last]
		o.cleanups = o.cleanups[:last]
		f()
	}
}

// TestTeardown lets a test leak what is worst to leave, and kills its containerd: the
// test must fail naming the leaks, and the machine must be as before all the same.
func TestTeardown(t *testing.T) {
	o := &observer{TB: t}
	n := New(o)
	c := n.Pod(o).Run("counter", n.Image(Busybox), Counting())
	c.WaitCount(2)
	pid := c.Pid()

	mounted := filepath.Join(n.State(), "leaked-mount")
	must(t, os.MkdirAll(mounted, 0o700))
	must(t, unix.Mount("tmpfs", mounted, "tmpfs", 0, ""))
	stray := exec.Command("sleep", "602")
	stray.Env = []string{markerEnv + "=" + n.id}
	must(t, stray.Start())
	strayEnd := make(chan struct{})
	go func() {
		defer close(strayEnd)
		_ = stray.Wait() // killed, and reaped so that it is no zombie
	}()
	must(t, syscall.Kill(n.DaemonPid(), syscall.SIGKILL))
	<-n.daemon.exited

	o.end()
	said := strings.Join(o.errors, "\n")
	for _, want := range []string{"containerd ended by itself", "leaked-mount", "sleep 602"} {
		if !strings.Contains(said, want) {
			t.Errorf("the test's failures do not mention %q:\n%s", want, said)
		}
	}
	if strings.Contains(said, "counter") {
		t.Errorf("a container that the clean-up removes is reported as a leak:\n%s", said)
	}
	<-strayEnd
	requireNothingOf(t, n, pid)
}

// TestSweep leaves a whole node behind, as a killed test process does, and expects the
// sweep of another process to remove it.
func TestSweep(t *testing.T) {
	o := &observer{TB: t}
	n := New(o)
	c := n.Pod(o).Run("counter", n.Image(Busybox), Counting())
	c.WaitCount(2)
	pid := c.Pid()
	sweep(t)
	if syscall.Kill(pid, 0) != nil {
		t.Fatal("the sweep ended a node whose test is alive")
	}
	// The lock goes with the process; the sockets of the subnet and the registry too.
	must(t, n.owner.Close())
	sweep(t)
	<-n.daemon.exited
	must(t, n.network.lock.Close())
	must(t, n.conn.Close())
	n.registry.server.Close()
	requireNothingOf(t, n, pid)
}

func requireNothingOf(t *testing.T, n *Node, pid int) {
	t.Helper()
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("the container's process still runs: %s", stat)
	}
	if _, err := os.Stat(n.dir); !os.IsNotExist(err) {
		t.Errorf("%s: got %v, want it gone", n.dir, err)
	}
	mounts, err := mountsOf(n.dir)
	if err != nil || len(mounts) > 0 {
		t.Errorf("mounts: got %d, %v, want none", len(mounts), err)
	}
	procs, err := processesOf(n.id, n.dir)
	if err != nil || len(procs) > 0 {
		t.Errorf("processes: got %v, %v, want none", procs, err)
	}
	hierarchies, err := cgroupMounts()
	must(t, err)
	for _, hierarchy := range hierarchies {
		if _, err := os.Stat(filepath.Join(hierarchy, n.CgroupRoot())); !os.IsNotExist(err) {
			t.Errorf("cgroup in %s: got %v, want it gone", hierarchy, err)
		}
	}
	if links, err := n.network.links(); err != nil || len(links) > 0 {
		t.Errorf("interfaces: got %v, %v, want none", links, err)
	}
}

func TestReconfigureToNothing(t *testing.T) {
	n := New(t)
	err := n.TryReconfigure(WithConfig(`disabled_plugins = ["io.containerd.grpc.v1.cri"]`))
	if err == nil || !strings.Contains(err.Error(), "without its CRI plugin") {
		t.Errorf("containerd without CRI: got %v", err)
	}
	n.Reconfigure(WithConfig(`disabled_plugins = []`))
	n.Pod(t)
}

func TestRegistry(t *testing.T) {
	r := NewRegistry(t)
	image, err := BusyboxImage()
	must(t, err)
	manifest, err := image.Digest()
	must(t, err)
	if got, want := r.Push("app:1", image), r.Ref("app@"+manifest.String()); got != want {
		t.Errorf("pushed reference: got %s, want %s", got, want)
	}
	if got := len(r.Requests("")); got != 0 {
		t.Errorf("the harness's pushes are counted: %d requests", got)
	}
	get := func() int {
		resp, err := http.Get("http://" + r.Host() + "/v2/app/manifests/1")
		must(t, err)
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		must(t, err)
		return resp.StatusCode
	}
	if got := get(); got != http.StatusOK || r.Downloads("/app/manifests/") != 1 {
		t.Errorf("got status %d and %d downloads, want 200 and 1", got, r.Downloads("/app/manifests/"))
	}
	r.RequireAuth("user", "secret")
	if got := get(); got != http.StatusUnauthorized || r.Downloads("/app/") != 1 || len(r.Requests("/app/")) != 2 {
		t.Errorf("without credentials: got status %d, requests %v", got, r.Requests("/app/"))
	}
	r.RequireAuth("", "")

	release := r.Hold("/app/manifests/")
	answered := make(chan int, 1)
	go func() { answered <- get() }()
	select {
	case got := <-answered:
		t.Errorf("a held request was answered with %d", got)
	default:
	}
	release()
	if got := <-answered; got != http.StatusOK {
		t.Errorf("after the release: got %d, want 200", got)
	}
}

// TestPrivateRegistry pulls from a registry with credentials, and not without.
func TestPrivateRegistry(t *testing.T) {
	n := New(t, WithRegistryAuth("user", "secret"))
	image, err := BusyboxImage()
	must(t, err)
	ref := n.Registry().Push("private:1", image)
	if id, err := n.TryPull(ref, "", ""); err == nil {
		t.Errorf("pulled %s without credentials", id)
	}
	n.PullAs(ref, "user", "secret")
	if n.ImageStatus(ref) == nil {
		t.Errorf("%s is absent after its pull", ref)
	}
}

func TestParseLog(t *testing.T) {
	const at = "2026-01-02T03:04:05.678901234Z"
	lines, err := parseLog(at + " stdout P hel\n" + at + " stderr F oops\n" + at + " stdout F lo world\n" + at +
		" stdout F unfinished")
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != 2 || lines[0].Text != "oops" || lines[1].Text != "hello world" ||
		lines[1].Time.Nanosecond() != 678901234 {
		t.Errorf("got %+v", lines)
	}
	for _, bad := range []string{"\n", "x stdout F a\n", at + " stdin F a\n"} {
		if lines, err := parseLog(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, lines)
		}
	}
}
