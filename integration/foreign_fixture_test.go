package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// The fixtures are checkpoints that CRI-O and Podman have made, see the page beside them. Each had counted to 6.
const (
	fixtures       = "testdata/fixtures"
	fixtureCounted = 6
)

// fixture is one of them.
type fixture struct {
	name, producer string
	image          func(t *testing.T, n *harness.Node) string
	opts           func(t *testing.T) []harness.ContainerOpt
}

func fixtureArchive(file string) func(*testing.T, *harness.Node) string {
	return func(t *testing.T, _ *harness.Node) string {
		t.Helper()
		name, err := filepath.Abs(filepath.Join(fixtures, file))
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
}

// kubeletMounts are what the kubelet mounts into every container: CRI-O's fixture had them.
func kubeletMounts(t *testing.T) []harness.ContainerOpt {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "hosts"), "127.0.0.1 localhost\n")
	writeFile(t, filepath.Join(dir, "termination-log"), "")
	return []harness.ContainerOpt{
		harness.Mount(filepath.Join(dir, "hosts"), "/etc/hosts", false),
		harness.Mount(filepath.Join(dir, "termination-log"), "/dev/termination-log", false),
	}
}

func allFixtures() []fixture {
	return []fixture{
		{name: "CRI-O archive", producer: "CRI-O", image: fixtureArchive("crio-pod.tar"), opts: kubeletMounts},
		{name: "Podman archive", producer: "Podman", image: fixtureArchive("podman-4-bridge.tar.zst")},
		{name: "Podman image", producer: "Podman", image: func(t *testing.T, n *harness.Node) string {
			t.Helper()
			repository := unique("fixture/podman") + ":1"
			n.Registry().PushLayout(repository, filepath.Join(fixtures, "podman-4-image"))
			n.Pull(n.Image(repository))
			return n.Image(repository)
		}},
	}
}

// withFixtureBase pulls the fixtures' base image.
func withFixtureBase(t *testing.T, n *harness.Node) {
	t.Helper()
	n.Registry().PushLayout("fixture/base:1", filepath.Join(fixtures, "base"))
	n.Pull(n.Image("fixture/base:1"))
}

// TestFixtures restores checkpoints of other engines in a pod: the process counts on from where it was, sees what it
// had changed and deleted, and its log goes on. It is checkpointed and restored again.
func TestFixtures(t *testing.T) {
	t.Parallel()
	requireFixtureCPU(t)
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	withFixtureBase(t, n)
	for _, f := range allFixtures() {
		t.Run(f.name, func(t *testing.T) {
			n := n.In(t)
			name := f.image(t, n)
			before := n.Inventory(t)
			var opts []harness.ContainerOpt
			if f.opts != nil {
				opts = f.opts(t)
			}
			pod := n.Pod(t)
			c := pod.Run("restored", name, opts...)
			requireFixtureContinues(t, c, f)
			archive := checkpointOf(t, c)
			counted := harness.Count(c.Log())
			pod.Remove()

			again := n.Pod(t).Run("again", archive, opts...)
			again.WaitCount(counted + 2)
			requireFixtureFiles(t, again)
			again.Pod.Remove()
			if err := os.Remove(archive); err != nil {
				t.Fatal(err)
			}
			n.RequireNoLeak(t, before)
		})
	}
}

func requireFixtureContinues(t *testing.T, c *harness.Container, f fixture) {
	t.Helper()
	c.WaitCount(fixtureCounted + 3)
	want := make([]int, fixtureCounted+3)
	for i := range want {
		want[i] = i + 1
	}
	if got := numbers(c.Log(), "count"); !slices.Equal(got[:len(want)], want) {
		t.Errorf("the log has %v, want 1 to %d and so on", got, len(want))
	}
	requireFixtureFiles(t, c)
	annotations := c.Status().GetAnnotations()
	if got := annotations["org.criu.restore/producer"]; got != f.producer {
		t.Errorf("producer %q, want %q", got, f.producer)
	}
	// The pod's, not the checkpoint's.
	if got, want := strings.TrimSpace(c.Exec("hostname")), strings.TrimSpace(c.Exec("cat", "/etc/hostname")); got != want {
		t.Errorf("host name %q, /etc/hostname %q", got, want)
	}
	if ip := c.Pod.IP(); !strings.Contains(c.Exec("ip", "addr", "show", "eth0"), ip+"/") {
		t.Errorf("the process is not in the pod's network, which has address %s", ip)
	}
	if env := c.Exec("sh", "-c", "tr '\\0' '\\n' </proc/1/environ"); !strings.Contains(env, "FOO=bar") {
		t.Errorf("environment of the process: %q", env)
	}
}

func requireFixtureFiles(t *testing.T, c *harness.Container) {
	t.Helper()
	c.Exec("sh", "-ec", `test "$(cat /newdir/f)" = z; test ! -e /data/delme; test ! -e /data/dir; test -e /data/keep; test "$(cat /data/counter)" -gt 6; test -f /run/.containerenv`)
}

// requireFixtureCPU says if this machine cannot restore the fixtures: they come from a processor with AVX-512, which
// CRIU and the C library's memory functions depend on.
func requireFixtureCPU(t *testing.T) {
	t.Helper()
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(info), " avx512f") {
		t.Fatal("environment: the fixtures were made on a processor with AVX-512, which this machine has not: they cannot " +
			"be restored here")
	}
}
