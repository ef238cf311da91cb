package integration

import (
	"strings"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestRestoreWorkloads restores processes whose state is in memory, threads, pipes,
// sockets and open files only; each of them checks it before every line (point 6).
func TestRestoreWorkloads(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	img := workloadImage(t, n)
	for _, w := range []struct {
		name string
		run  harness.ContainerOpt
		at   int    // the workload's line before which nothing is checkpointed
		says string // in every line
	}{
		{"multi-process tree", workload("tree"), 3, "tree leaf"},
		{"threads", workload("threads"), 7, "threads"},
		{"deleted file", workload("deleted"), 3, "deleted"},
		{"256 MiB heap", workload("heap", "256"), 5, "heap 256 MiB"}, // the fifth line has checked all of it
		{"file locks", workload("locks"), 3, "locks"},
		{"zombie", harness.Shell("sleep 0.1 & exec /bin/workload threads"), 7, "threads"},
	} {
		t.Run(w.name, func(t *testing.T) {
			n := n.In(t)
			before := n.Inventory(t)
			pod := n.Pod(t)
			c := pod.Run("workload", img, w.run)
			counted := waitOK(t, c, w.at)
			archive := checkpointOf(t, c)
			pod.Remove()

			pod = n.Pod(t)
			restored := pod.Run("restored", archive)
			at := requireOKContinues(t, restored, counted)
			waitOK(t, restored, at+4) // all of the heap again
			if log := restored.Log(); !strings.Contains(log[len(log)-1], w.says) {
				t.Errorf("the last line is %q", log[len(log)-1])
			}
			if w.name == "zombie" && !strings.Contains(restored.Exec("ps", "-o", "stat,args"), "Z    [sleep]") {
				t.Errorf("no zombie in\n%s", restored.Exec("ps", "-o", "stat,args"))
			}
			pod.Remove()
			n.RequireNoLeak(t, before)
		})
	}
}

// TestRestoreNativeSnapshotter restores without overlayfs, from an archive and from an
// image, which is a full copy there (point 6).
func TestRestoreNativeSnapshotter(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithSnapshotter("native"), harness.WithRestoreConfig(allowArchives))
	pod := n.Pod(t)
	c := pod.Run("counter", n.Image(harness.Busybox), harness.Counting())
	c.Exec("/bin/sh", "-c", changesOfData)
	counted := c.WaitCount(5)
	archive := checkpointOf(t, c)
	pod.Remove()
	for kind, name := range map[string]string{
		"archive": archive, "image": imageOf(t, n, archive), "published": publishedImageOf(t, n, archive, "native"),
	} {
		t.Run(kind, func(t *testing.T) {
			n := n.In(t)
			before := n.Inventory(t)
			pod := n.Pod(t)
			c := pod.Run("restored", name)
			requireContinues(t, c, counted)
			if got := c.Exec("/bin/sh", "-c", "ls /data; cat "+
				"/data/*"); got != "change-me\nkeep-me\nnew\nchanged\n/data/keep-me\nnew\n" {
				t.Errorf("/data is %q", got)
			}
			pod.Remove()
			n.RequireNoLeak(t, before)
		})
	}
}

// changesOfData creates, changes and deletes one file below /data.
const changesOfData = "echo new > /data/new; echo changed > /data/change-me; rm /data/delete-me"
