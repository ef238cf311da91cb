package integration

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// inspected is what of checkpointctl's output is looked at (checkpointctl: internal/json.go).
type inspected struct {
	ID, Engine     string
	CheckpointSize struct {
		MemoryPages int64 `json:"memory_pages_size"`
		RootfsDiff  int64 `json:"root_fs_diff_size"`
	} `json:"checkpoint_size"`
	Statistics struct {
		PagesWritten int64 `json:"pages_written"`
		FrozenTime   int64 `json:"frozen_time"`
	}
	Metadata struct {
		PodName   string `json:"pod_name"`
		Namespace string `json:"kubernetes_namespace"`
	}
	ProcessTree struct {
		PID         int
		Cmdline     string
		Environment map[string]string `json:"environment_variables"`
	} `json:"process_tree"`
	Mounts []struct{ Destination, Type string }
}

func checkpointctl(t *testing.T, n *harness.Node, args ...string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(n.Tools().Bin, "checkpointctl"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("checkpointctl %q: %v: %s", args, err, out)
	}
	return string(out)
}

// TestCheckpointctl has checkpointctl explain the checkpoints that our build takes: of an ordinary container, and of
// one that was restored from it.
func TestCheckpointctl(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	pod := n.Pod(t)
	c := pod.Run("counter", n.Image(harness.Busybox), harness.Shell("echo x > /new; "+podmanCounter),
		harness.Env("FOO", "bar"))
	c.WaitCount(5)
	first := checkpointOf(t, c)
	requireExplained(t, n, c, first)
	pod.Remove()
	restored := n.Pod(t).Run("counter", first, harness.Env("FOO", "bar"))
	restored.WaitCount(10)
	requireExplained(t, n, restored, checkpointOf(t, restored))
}

func requireExplained(t *testing.T, n *harness.Node, c *harness.Container, archive string) {
	t.Helper()
	show := checkpointctl(t, n, "show", archive)
	for _, want := range []string{"counter", n.Image(harness.Busybox), c.ID[:12], "io.containerd.runc.v2", "containerd"} {
		if !strings.Contains(show, want) {
			t.Errorf("show does not say %q:\n%s", want, show)
		}
	}
	var all []inspected
	text := checkpointctl(t, n, "inspect", "--all", "--format", "json", archive)
	if err := json.Unmarshal([]byte(text), &all); err != nil || len(all) != 1 {
		t.Fatalf("inspect: %v in %s", err, text)
	}
	got := all[0]
	if got.ID != c.ID || got.Engine != "containerd" || got.Metadata.PodName != c.Pod.Config.GetMetadata().GetName() ||
		got.Metadata.Namespace != "default" {
		t.Errorf("inspect: %+v", got)
	}
	if got.ProcessTree.PID != 1 || !strings.Contains(got.ProcessTree.Cmdline, "/bin/sh -c") ||
		got.ProcessTree.Environment["FOO"] != "bar" {
		t.Errorf("inspect: processes %+v", got.ProcessTree)
	}
	if got.Statistics.PagesWritten == 0 || got.Statistics.FrozenTime == 0 || got.CheckpointSize.MemoryPages == 0 ||
		got.CheckpointSize.RootfsDiff == 0 {
		t.Errorf("inspect: statistics %+v, sizes %+v", got.Statistics, got.CheckpointSize)
	}
	mounts := fmt.Sprint(got.Mounts)
	if !strings.Contains(mounts, "/dev/shm") || !strings.Contains(mounts, "/proc") {
		t.Errorf("inspect: mounts %s", mounts)
	}
}
