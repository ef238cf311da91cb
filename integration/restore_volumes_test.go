package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// linkedCounter counts in /work, with /var/run a link to /run as in most images.
const linkedCounter = `mkdir -p /run /var /work; rm -rf /var/run; ln -s /run /var/run; cd /work; exec 3>/work/open; i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`

// TestRestoreMoreVolumes restores in a pod that mounts more than the checkpointed one did, as the kubelet does: the
// process sees the volumes where an ordinary container would, read-only where the pod says so.
func TestRestoreMoreVolumes(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	archive, counted := countingCheckpoint(t, n, harness.Shell(linkedCounter))
	dir := t.TempDir()
	for name, content := range map[string]string{"token/token": "a token", "data/sub/x": "", "data/file": "data",
		"nested/file": "nested", "termination-log": "", "config": "config"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name), content)
	}
	opts := []harness.ContainerOpt{
		harness.Mount(filepath.Join(dir, "termination-log"), "/dev/termination-log", false),
		harness.Mount(filepath.Join(dir, "token"), "/var/run/secrets/kubernetes.io/serviceaccount", true),
		harness.Mount(filepath.Join(dir, "config"), "/etc/deep/er/config", true),
		harness.Mount(filepath.Join(dir, "data"), "/mnt", false),
		harness.Mount(filepath.Join(dir, "nested"), "/mnt/sub", false),
		harness.Mount(filepath.Join(dir, "nested"), "/dev/deep/er", false),
	}
	before := n.Inventory(t)
	for generation := range 2 {
		pod := n.Pod(t)
		c := pod.Run("restored", archive, opts...)
		counted = requireContinuesAgain(t, c, counted, generation)
		c.Exec("sh", "-ec", `
			test "$(cat /run/secrets/kubernetes.io/serviceaccount/token)" = "a token"
			test "$(cat /proc/1/root/var/run/secrets/kubernetes.io/serviceaccount/token)" = "a token"
			test "$(cat /etc/deep/er/config)" = config
			test "$(cat /mnt/file)" = data; test "$(cat /mnt/sub/file)" = nested; test "$(cat /dev/deep/er/file)" = nested
			echo written > /mnt/new; echo message > /dev/termination-log
			! touch /run/secrets/kubernetes.io/serviceaccount/x 2>/dev/null; ! sh -c 'echo x >> /etc/deep/er/config' 2>/dev/null`)
		if got, err := os.ReadFile(filepath.Join(dir, "termination-log")); err != nil || string(got) != "message\n" {
			t.Errorf("termination log: %q, %v", got, err)
		}
		if generation == 0 {
			archive = checkpointOf(t, c) // which has them
		}
		pod.Remove()
	}
	if err := os.Remove(archive); err != nil {
		t.Fatal(err)
	}
	n.RequireNoLeak(t, before)
}

// TestRestoreVolumesThatHide: a volume where the process has something open would take it away.
func TestRestoreVolumesThatHide(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	archive, counted := countingCheckpoint(t, n, harness.Shell(linkedCounter))
	pod := n.Pod(t)
	before := n.Inventory(t)
	for at, words := range map[string][]string{
		"/work":           {`a process has "/work/open" open`},
		"/work/open":      {`a process has "/work/open" open`},
		"/proc/x":         {"in proc at /proc"},
		"/sys/fs/x":       {"in sysfs at /sys"},
		"/dev/pts/x":      {"in devpts at /dev/pts"},
		"/bin":            {`a process has "/bin/busybox" open`},
		"/var/run/../../": {"another mount"},
	} {
		_, err := pod.TryCreate("refused", archive, harness.Mount(t.TempDir(), at, false))
		if at == "/var/run/../../" {
			if err == nil {
				t.Errorf("%s: a volume over the root file system", at)
			}
			continue // containerd or we
		}
		requireRefused(t, err, codes.FailedPrecondition, append(words, "the pod mounts a volume at")...)
		n.RequireNoLeak(t, before)
	}
	c := pod.Run("honest", archive, harness.Mount(t.TempDir(), "/work2", false))
	requireContinues(t, c, counted)
	if mounts := c.Exec("cat", "/proc/1/mounts"); strings.Count(mounts, " /work2 ") != 1 {
		t.Errorf("mounts: %s", mounts)
	}
}
