package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// containerd is killed in the middle of a checkpoint. The next one lets the container run on and removes what is
// left, wherever that is, and another checkpoint of the container works.
func TestCheckpointKilled(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, location, pattern string
		pages                   int64
	}{
		{"archive at the beginning", "", ".*.tar.*/checkpoint/checkpoint/pages-*.img", 1},
		{"archive in the middle", "", ".*.tar.*/checkpoint/checkpoint/pages-*.img", 200 << 20},
		{"archive when it is written", "", ".*.tar.*/archive", 1},
		{"image in the middle", "oci-image:checkpoint.example/killed:1", "", 200 << 20},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := harness.New(t, harness.WithRestoreConfig(allowArchives),
				harness.WithRestoreConfig(`allow_checkpoint_images = true`))
			c := n.Pod(t).Run("heap", workloadImage(t, n), workload("heap", "512"))
			c.WaitLine("ok 2 ")
			before := n.Inventory(t)
			location, pattern := tc.location, filepath.Join(n.Dir(), tc.pattern)
			if location == "" {
				location = filepath.Join(n.Dir(), "killed.tar")
			} else {
				pattern = filepath.Join(n.State(), restorePlugin, "checkpoint-*", "image", "checkpoint", "pages-*.img")
			}
			for tries := 1; ; tries++ {
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = n.Runtime().CheckpointContainer(n.Context(),
						&runtime.CheckpointContainerRequest{ContainerId: c.ID, Location: location})
				}()
				if seeFile(t, pattern, tc.pages, done) {
					break
				}
				if tries == 10 {
					t.Fatalf("no %s had %d bytes before the checkpoint was done", pattern, tc.pages)
				}
				// The moment was over before anybody looked.
				if image, ok := strings.CutPrefix(location, "oci-image:"); ok {
					n.RemoveImage(image)
				} else if err := os.Remove(location); err != nil {
					t.Fatal(err)
				}
			}
			n.Kill()
			n.Start()
			if state := c.Status().GetState(); state != runtime.ContainerState_CONTAINER_RUNNING {
				t.Fatalf("the container is %s", state)
			}
			lines := len(c.Log())
			c.WaitLog(func(now []string) bool { return len(now) > lines+2 })
			if _, err := os.Stat(location); err == nil {
				t.Logf("%s was done before", location)
				if err := os.Remove(location); err != nil {
					t.Error(err)
				}
			}
			requireOnly(t, n.Dir())
			n.RequireNoLeak(t, before)
			archive := checkpointOf(t, c)
			c.Remove()
			restored := c.Pod.Run("restored", archive)
			restored.WaitLog(func(now []string) bool { return len(now) > lines+5 })
		})
	}
}

// runc or CRIU is killed in the middle of a checkpoint. The call fails, nothing is left, and nobody takes the container
// for frozen. After runc's death it runs on and can be checkpointed; CRIU leaves foreign code in its processes.
func TestCheckpointOfKilledRunc(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	image := workloadImage(t, n)
	for _, program := range []string{"runc", "criu"} {
		t.Run(program, func(t *testing.T) {
			n := n.In(t)
			pod := n.Pod(t)
			c := pod.Run(program, image, workload("heap", "512"))
			c.WaitLine("ok 2 ")
			dir := t.TempDir()
			before := n.Inventory(t)
			done := make(chan error, 1)
			go func() { done <- c.TryCheckpoint(filepath.Join(dir, "killed.tar")) }()
			waitFile(t, filepath.Join(dir, ".killed.tar.*/checkpoint/checkpoint/pages-*.img"), 1)
			killProcess(t, program, programOf(n, program))
			err := <-done
			if err == nil || strings.Contains(err.Error(), "still frozen") {
				t.Errorf("error %v", err)
			}
			requireOnly(t, dir)
			n.RequireNoLeak(t, before)
			if status := taskStatus(t, n, c); status != "RUNNING" {
				t.Errorf("the task is %s", status)
			}
			if program == "runc" {
				lines := len(c.Log())
				c.WaitLog(func(now []string) bool { return len(now) > lines+2 })
				archive := checkpointOf(t, c)
				c.Remove()
				restored := pod.Run("restored", archive)
				restored.WaitLog(func(now []string) bool { return len(now) > lines+5 })
				return
			}
			c.Remove()
		})
	}
}

// taskStatus is what the shim says.
func taskStatus(t *testing.T, n *harness.Node, c *harness.Container) string {
	t.Helper()
	for line := range strings.Lines(n.Ctr("task", "ls")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == c.ID {
			return fields[2]
		}
	}
	return "gone"
}

// runc that cannot write its log cannot thaw. The caller is told, and the container runs on when containerd is started
// again on a disk in order.
func TestCheckpointNotThawed(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	c := n.Pod(t).Run("heap", workloadImage(t, n), workload("heap", "512"))
	c.WaitLine("ok 2 ")
	before := n.Inventory(t)
	file := filepath.Join(n.Dir(), "frozen.tar")
	done := make(chan error, 1)
	go func() { done <- c.TryCheckpoint(file) }()
	waitFile(t, filepath.Join(n.Dir(), ".frozen.tar.*/checkpoint/checkpoint/pages-*.img"), 1)
	bundle := filepath.Join(n.State(), "io.containerd.runtime.v2.task", "k8s.io", c.ID)
	for _, flags := range []uintptr{unix.MS_BIND, unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY} {
		if err := unix.Mount(bundle, bundle, "", flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	requireRefused(t, <-done, codes.Unknown, c.ID, "is still frozen: resume it with ctr", "read-only file system")
	if err := unix.Unmount(bundle, 0); err != nil {
		t.Fatal(err)
	}
	n.Restart()
	lines := len(c.Log())
	c.WaitLog(func(now []string) bool { return len(now) > lines+2 })
	_ = os.Remove(file)
	requireOnly(t, n.Dir())
	n.RequireNoLeak(t, before)
}

// A checkpoint of a container that is removed meanwhile fails or ends well, and leaves nothing.
func TestCheckpointOfRemoved(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod, image := n.Pod(t), workloadImage(t, n)
	before := n.Inventory(t)
	c := pod.Run("heap", image, workload("heap", "512"))
	c.WaitLine("ok 2 ")
	file := filepath.Join(n.Dir(), "removed.tar")
	done := make(chan error, 1)
	go func() { done <- c.TryCheckpoint(file) }()
	waitFile(t, filepath.Join(n.Dir(), ".removed.tar.*/checkpoint/checkpoint/pages-*.img"), 1)
	c.Remove()
	if err := <-done; err != nil {
		t.Logf("the checkpoint says: %v", err)
	} else if err := os.Remove(file); err != nil {
		t.Error(err)
	}
	requireOnly(t, n.Dir())
	forgetLog(t, c)
	n.RequireNoLeak(t, before)
}

// Of two checkpoints of one container at once, one is taken.
func TestCheckpointTwiceAtOnce(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	c := n.Pod(t).Run("heap", workloadImage(t, n), workload("heap", "256"))
	c.WaitLine("ok 2 ")
	first, second := filepath.Join(n.Dir(), "a.tar"), filepath.Join(n.Dir(), "b.tar")
	done := make(chan error, 1)
	go func() { done <- c.TryCheckpoint(first) }()
	waitFile(t, filepath.Join(n.Dir(), ".a.tar.*/checkpoint/checkpoint/pages-*.img"), 1)
	requireRefused(t, c.TryCheckpoint(second), codes.Aborted, c.ID, "another request")
	if err := <-done; err != nil {
		t.Errorf("the first: %v", err)
	}
	requireOnly(t, n.Dir(), "a.tar")
}

// waitFile waits until a file of the pattern has some bytes.
func waitFile(t testing.TB, pattern string, size int64) {
	t.Helper()
	late := make(chan struct{})
	defer time.AfterFunc(30*time.Second, func() { close(late) }).Stop()
	if !seeFile(t, pattern, size, late) {
		t.Fatalf("no %s has %d bytes", pattern, size)
	}
}

// seeFile waits until a file of the pattern has some bytes. It reports whether that was before the end.
func seeFile(t testing.TB, pattern string, size int64, end <-chan struct{}) bool {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if fi, err := os.Stat(file); err == nil && fi.Size() >= size {
				return true
			}
		}
		select {
		case <-end:
			return false
		case <-tick.C:
		}
	}
}
