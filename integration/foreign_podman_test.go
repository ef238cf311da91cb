package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// podmanCounter counts as [harness.Counting], and changes files first.
const podmanCounter = `rm /etc/group; mkdir /newdir; echo z > /newdir/f; chmod 700 /newdir; cd /newdir; echo literal > .wh.f; i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`

// networkNamespace makes a network namespace and returns its path: one that Podman joins, as it does for its bridges,
// without the machine having one.
func networkNamespace(t *testing.T) string {
	t.Helper()
	name := unique(fmt.Sprintf("crt-%d", os.Getpid()))
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", name).CombinedOutput(); err != nil {
			t.Errorf("ip netns delete: %v: %s", err, out)
		}
	})
	return "/run/netns/" + name
}

// waitPodmanCount waits until a container of Podman has counted so far.
func waitPodmanCount(t *testing.T, p *harness.Podman, id string, count int) {
	t.Helper()
	p.Must("exec", id, "true")
	p.WaitLog(id, fmt.Sprintf("count %d", count))
}

// podmanCheckpoint runs a container and checkpoints it.
func podmanCheckpoint(t *testing.T, p *harness.Podman, n *harness.Node, options []string,
	checkpoint ...string) (archive string) {
	t.Helper()
	p = p.In(t)
	id := p.Run(options, "/bin/sh", "-c", podmanCounter)
	waitPodmanCount(t, p, id, 5)
	archive = filepath.Join(n.Dir(), unique("podman")+".tar")
	p.Must(append(append([]string{"container", "checkpoint"}, checkpoint...), "--export", archive, id)...)
	p.Must("rm", "--force", "--time", "0", id)
	return archive
}

func requirePodmanContinues(t *testing.T, c *harness.Container) {
	t.Helper()
	c.WaitCount(10)
	found := numbers(c.Log(), "count")
	for i, v := range found {
		if v != i+1 {
			t.Errorf("line %d of the log is %d: %v", i, v, found)
			break
		}
	}
	c.Exec("sh", "-ec", `test ! -e /etc/group; test "$(cat /newdir/f)" = z; test "$(cat /newdir/.wh.f)" = literal; test "$(stat -c %a /newdir)" = 700; test "$(readlink /proc/1/cwd)" = /newdir; test -f /run/.containerenv`)
}

// TestPodman takes checkpoints with Podman and restores them in pods, in the same run.
func TestPodman(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	p := n.Podman(t)
	network := []string{"--network", "ns:" + networkNamespace(t)}
	for _, compression := range []string{"none", "gzip", "zstd"} {
		t.Run("archive "+compression, func(t *testing.T) {
			n := n.In(t)
			archive := podmanCheckpoint(t, p, n, network, "--compress", compression)
			before := n.Inventory(t)
			pod := n.Pod(t)
			requirePodmanContinues(t, pod.Run("restored", archive))
			pod.Remove()
			n.RequireNoLeak(t, before)
		})
	}
	t.Run("image", func(t *testing.T) {
		n, p := n.In(t), p.In(t)
		id := p.Run(network, "/bin/sh", "-c", podmanCounter)
		waitPodmanCount(t, p, id, 5)
		name := n.Image(unique("podman") + ":1")
		p.Must("container", "checkpoint", "--create-image", name, id)
		p.Must("push", "--quiet", "--tls-verify=false", name)
		p.Must("rm", "--force", "--time", "0", id)
		n.Pull(name)
		before := n.Inventory(t)
		pod := n.Pod(t)
		requirePodmanContinues(t, pod.Run("restored", name))
		pod.Remove()
		n.RequireNoLeak(t, before)
	})
	t.Run("in a pod of the kubelet's", func(t *testing.T) {
		n := n.In(t)
		archive := podmanCheckpoint(t, p, n, network)
		token := t.TempDir()
		writeFile(t, filepath.Join(token, "token"), "a token")
		pod := n.Pod(t)
		c := pod.Run("restored", archive, append(kubeletMounts(t),
			harness.Mount(token, "/var/run/secrets/kubernetes.io/serviceaccount", true))...)
		requirePodmanContinues(t, c)
		c.Exec("sh", "-ec", `test "$(cat /var/run/secrets/kubernetes.io/serviceaccount/token)" = "a token"; echo x > /dev/termination-log`)
	})
	t.Run("profile", func(t *testing.T) {
		n := n.In(t)
		seccomp := func(kind runtime.SecurityProfile_ProfileType) harness.ContainerOpt {
			return harness.Security(func(s *runtime.LinuxContainerSecurityContext) {
				s.Seccomp = &runtime.SecurityProfile{ProfileType: kind}
			})
		}
		archive := podmanCheckpoint(t, p, n, network)
		pod := n.Pod(t)
		// Podman's own profile allows more than containerd's.
		_, err := pod.TryCreate("restored", archive, seccomp(runtime.SecurityProfile_RuntimeDefault))
		requireRefused(t, err, codes.PermissionDenied, "seccomp filter", "mount allowed")
		requirePodmanContinues(t, pod.Run("unconfined", archive, seccomp(runtime.SecurityProfile_Unconfined)))

		ordinary := pod.Run("ordinary", n.Image(harness.Busybox), harness.Counting(),
			seccomp(runtime.SecurityProfile_RuntimeDefault))
		profile, err := json.Marshal(specOf(t, ordinary).Linux.Seccomp)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "profile.json")
		writeFile(t, file, string(profile))
		archive = podmanCheckpoint(t, p, n, append([]string{"--security-opt", "seccomp=" + file}, network...))
		requirePodmanContinues(t, pod.Run("restored", archive, seccomp(runtime.SecurityProfile_RuntimeDefault)))
	})
	t.Run("volume", func(t *testing.T) {
		n := n.In(t)
		volume := t.TempDir()
		archive := podmanCheckpoint(t, p, n, append([]string{"--volume", volume + ":/mnt"}, network...))
		pod := n.Pod(t)
		_, err := pod.TryCreate("without", archive)
		requireRefused(t, err, codes.FailedPrecondition, `a volume at "/mnt"`)
		_, err = pod.TryCreate("file", archive, harness.Mount("/etc/hostname", "/mnt", false))
		requireRefused(t, err, codes.FailedPrecondition, `"/mnt"`, "is a file", "a directory")
		requirePodmanContinues(t, pod.Run("restored", archive, harness.Mount(t.TempDir(), "/mnt", false)))
	})
	t.Run("terminal", func(t *testing.T) {
		n := n.In(t)
		archive := podmanCheckpoint(t, p, n, append([]string{"--tty"}, network...))
		pod := n.Pod(t)
		_, err := pod.TryCreate("without", archive)
		requireRefused(t, err, codes.FailedPrecondition, "set tty: true")
		pod.Run("restored", archive, harness.Tty()).WaitCount(10)
	})
	for name, c := range map[string]struct {
		options []string
		words   []string
	}{
		"no network": {[]string{"--network", "none"},
			[]string{"network namespace was one of its own", "now be one that it shares with its pod"}},
		"host's network": {[]string{"--network", "host"}, []string{"network namespace was the host's"}},
		"host's PIDs":    {append([]string{"--pid", "host"}, network...), []string{"pid namespace was the host's"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := n.In(t)
			archive := podmanCheckpoint(t, p, n, c.options)
			pod := n.Pod(t)
			before := n.Inventory(t)
			_, err := pod.TryCreate("refused", archive)
			requireRefused(t, err, codes.FailedPrecondition, c.words...)
			n.RequireNoLeak(t, before)
		})
	}
}

// TestPodmanShm: what was in /dev/shm comes back where the pod has one container, which has the file open.
func TestPodmanShm(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	p := n.Podman(t)
	id := p.Run([]string{"--network", "ns:" + networkNamespace(t)}, "/bin/sh", "-c",
		`echo shared > /dev/shm/segment; exec 3</dev/shm/segment; `+strings.TrimPrefix(podmanCounter, "rm /etc/group; "))
	waitPodmanCount(t, p, id, 5)
	archive := filepath.Join(n.Dir(), "shm.tar")
	p.Must("container", "checkpoint", "--export", archive, id)
	p.Must("rm", "--force", "--time", "0", id)
	before := n.Inventory(t)

	shared := n.Pod(t)
	other := shared.Run("other", n.Image(harness.Busybox), harness.Counting())
	_, err := shared.TryCreate("refused", archive)
	requireRefused(t, err, codes.FailedPrecondition, "/dev/shm", `shares with its container "other"`)
	if got := other.Exec("ls", "/dev/shm"); got != "" {
		t.Errorf("a refused checkpoint left %q in /dev/shm", got)
	}
	host := n.Pod(t, hostIPC)
	_, err = host.TryCreate("refused", archive)
	requireRefused(t, err, codes.FailedPrecondition, "/dev/shm", "do not set hostIPC")

	pod := n.Pod(t)
	for range 2 { // the second time as after a restart of the container
		c := pod.Run("restored", archive)
		c.WaitCount(10)
		if got := c.Exec("cat", "/dev/shm/segment", "/proc/1/fd/3"); got != "shared\nshared\n" {
			t.Errorf("/dev/shm/segment: %q", got)
		}
		c.Exec("sh", "-c", "echo changed > /dev/shm/new")
		c.Stop(0)
		c.Remove()
	}
	for _, pod := range []*harness.Pod{shared, host, pod} {
		pod.Remove()
	}
	n.RequireNoLeak(t, before)
}
