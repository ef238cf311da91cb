package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// podmanArchive runs our program.
func podmanArchive(t *testing.T, n *harness.Node, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(filepath.Join(n.Tools().Bin, "podman-archive"), args...).CombinedOutput()
	return string(out), err
}

// TestPodmanRestores has Podman restore what containerd has checkpointed. Podman insists on its own format: the archive
// as it is it refuses, and goes on with the one that podman-archive makes of it.
func TestPodmanRestores(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	p := n.Podman(t)
	pod := n.Pod(t)
	volume := t.TempDir()
	writeFile(t, filepath.Join(volume, "file"), "of the pod")
	c := pod.Run("counter", n.Image(harness.Busybox), harness.Shell(strings.Replace(podmanCounter, ".wh.f", "g", 1)),
		harness.Mount(volume, "/mnt", false))
	counted := c.WaitCount(5)
	archive := checkpointOf(t, c)
	pod.Remove()

	_, err := p.Try("container", "restore", "--import", archive, "--name", "as-it-is")
	if err == nil || !strings.Contains(err.Error(), "was created with runtime 'io.containerd.runc.v2'") {
		t.Errorf("podman restores containerd's own archive: %v", err)
	}
	other := filepath.Join(t.TempDir(), "podman.tar")
	if out, err := podmanArchive(t, n, archive, other); err == nil || !strings.Contains(out, `volume at "/mnt"`) {
		t.Errorf("a volume of which nobody says what it is: %v, %s", err, out)
	}
	mnt := t.TempDir()
	writeFile(t, filepath.Join(mnt, "file"), "of podman")
	if out, err := podmanArchive(t, n, "--volume", mnt+":/mnt", archive, other); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := podmanArchive(t, n, "--volume", mnt+":/mnt", archive, other); err == nil ||
		!strings.Contains(out, "file exists") {
		t.Errorf("an archive is overwritten: %v, %s", err, out)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(other), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	p.Must("container", "restore", "--import", inCgroup(t, n, p, other), "--name", "restored")
	p.WaitLog("restored", "count 40")
	log := p.Must("logs", "restored")
	if found := numbers(strings.Split(log, "\n"), "count"); counted >= 40 || !slices.Contains(found, counted+1) ||
		found[len(found)-1] < 40 {
		t.Errorf("counted to %d, then %v", counted, found)
	}
	p.Must("exec", "restored", "sh", "-ec",
		`test ! -e /etc/group; test "$(cat /newdir/f)" = z; test "$(cat /mnt/file)" = "of podman"; test "$(readlink /proc/1/cwd)" = /newdir`)
	p.Must("rm", "--force", "--time", "0", "restored")

	for what, args := range map[string][]string{
		"give a checkpoint archive":   {archive},
		"two absolute paths":          {"--volume", "x:/y", archive, other + "2"},
		`no volume at "/none"`:        {"--volume", mnt + ":/mnt", "--volume", mnt + ":/none", archive, other + "2"},
		"no such file":                {archive + "x", other + "2"},
		"not of containerd":           {other, other + "2"},
		"flag provided but not defin": {"--none", archive, other + "2"},
	} {
		if out, err := podmanArchive(t, n, args...); err == nil || !strings.Contains(out, what) {
			t.Errorf("want an error that says %q: %v, %s", what, err, out)
		}
	}
	if _, err := os.Stat(other + "2"); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
}

// inCgroup changes nothing in an archive but the parent of the cgroup, so that the test uses none of the machine's own.
func inCgroup(t *testing.T, n *harness.Node, p *harness.Podman, archive string) string {
	t.Helper()
	all := entriesOf(t, archive)
	return doctoredArchive(t, n, withEntries(all, jsonFile(t, all, "config.dump",
		func(config object) { config["cgroupParent"] = p.Cgroup() })))
}
