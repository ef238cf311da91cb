package integration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// heapCheckpoint is the image of a checkpoint with a heap of 512 MiB, a volume at
// /volume and some changes of its root file system.
type heapCheckpoint struct {
	n       *harness.Node
	pod     *harness.Pod
	image   string
	volume  string
	counted int
	inside  string            // what fingerprint says of an honest restore
	host    map[string]string // what hashes says of volume and snapshots
}

const fingerprintScript = `find / -xdev -type f ! -path '/proc/*' -exec md5sum {} + | sort; find / -xdev -type l -o -xdev -type d | sort`

func newHeapCheckpoint(t *testing.T, n *harness.Node) *heapCheckpoint {
	t.Helper()
	h := &heapCheckpoint{n: n, volume: filepath.Join(n.Dir(), "volume")}
	for _, name := range []string{"a", "b/c", "b/d/e"} {
		writeHostFile(t, filepath.Join(h.volume, name), "file "+name+" of the volume")
	}
	pod := n.Pod(t)
	c := pod.Run("heap", workloadImage(t, n), workload("heap", "512"), h.mount())
	c.Exec("sh", "-c", "echo changed > /data/changed; rm -r /home/app; mkdir -p /new/dir; echo new > /new/dir/file")
	waitOK(t, c, 2)
	h.counted = numbers(c.Log(), "ok")[0]
	archive := checkpointOf(t, c)
	h.image = publishedImageOf(t, n, archive, "")
	pod.Remove()
	if err := os.Remove(archive); err != nil {
		t.Fatal(err)
	}
	h.pod = n.Pod(t)
	n.Inventory(t) // when it has been taken, garbage is collected
	h.host = h.hashes(t)
	honest := h.create(t)
	honest.Start()
	h.inside = h.requireWhole(t, honest)
	if !strings.Contains(h.inside, "/new/dir/file") || strings.Contains(h.inside, "/home/app") {
		t.Fatalf("the honest restore has not the checkpoint's root file system: %s", h.inside)
	}
	honest.Remove()
	forgetLog(t, honest)
	return h
}

func (h *heapCheckpoint) mount() harness.ContainerOpt {
	return harness.Mount(h.volume, "/volume", false)
}

func (h *heapCheckpoint) create(t *testing.T) *harness.Container {
	t.Helper()
	return h.pod.Create("heap", h.image, h.mount())
}

// requireWhole checks that a restored container has all its memory and its root file
// system, and returns the fingerprint of the latter.
func (h *heapCheckpoint) requireWhole(t *testing.T, c *harness.Container) string {
	t.Helper()
	requireOKContinues(t, c, h.counted)
	inside := c.Exec("sh", "-c", fingerprintScript)
	if h.inside != "" && inside != h.inside {
		t.Errorf("root file system: got\n%s\nwant\n%s", inside, h.inside)
	}
	return inside
}

// requireIntact checks what a delete that follows mounts would hit: the volume and the
// snapshots of the images.
func (h *heapCheckpoint) requireIntact(t *testing.T) {
	t.Helper()
	now := h.hashes(t)
	for name, want := range h.host {
		if now[name] != want {
			t.Errorf("%s: %q, want %q", name, now[name], want)
		}
	}
}

// hashes returns mode and content of every file of the volume and of the images'
// snapshots. Of large files, which are the checkpoint's, the size has to do.
func (h *heapCheckpoint) hashes(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range []string{h.volume,
		filepath.Join(h.n.Root(), "io.containerd.snapshotter.v1.overlayfs", "snapshots")} {
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // a snapshot of something else, on its way out
			}
			if err != nil {
				return err
			}
			if d.Name() == "work" { // overlayfs's own
				return fs.SkipDir
			}
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			all[name] = fmt.Sprint(info.Mode())
			if info.Mode().IsRegular() {
				all[name] += fmt.Sprint(" ", info.Size())
			}
			if !info.Mode().IsRegular() || info.Size() > 32<<20 {
				return nil
			}
			f, err := os.Open(name)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			defer f.Close()
			sum := sha256.New()
			_, err = io.Copy(sum, f)
			all[name] += " " + hex.EncodeToString(sum.Sum(nil))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestCrashDuringRestore kills containerd, runc, CRIU and the restored process, and lets
// callers give up, at several moments of a restore. Nothing of value may be lost, nothing
// may be left, and after a crash of containerd the restore can be started again.
func TestCrashDuringRestore(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(lazyOff)) // the moments are those of CRIU reading all memory
	h := newHeapCheckpoint(t, n)
	n.Baseline() // with the images
	cutOff := 0

	for i, m := range []moment{atRunc, atMount, atCRIU, atProcess, atPages, atMost, after(50 * time.Millisecond),
		after(250 * time.Millisecond)} {
		again := i%2 == 0
		t.Run(fmt.Sprintf("containerd, %s, again %v", m.name, again), func(t *testing.T) {
			before := n.Inventory(t)
			c := h.create(t)
			_, over := hit(t.Context(), t, c, m, n.Kill)
			if over {
				t.Fatal("the restore was over")
			}
			n.Start()
			switch state := c.Status().GetState(); state {
			case runtime.ContainerState_CONTAINER_CREATED:
				cutOff++
				if left := append(inCgroupOf(c.ID), runcOf(c.ID)); len(left) > 1 || left[0] != 0 {
					t.Errorf("processes of the restore that was cut off: %v", left)
				}
				if again {
					c.Start()
					h.requireWhole(t, c)
				}
			case runtime.ContainerState_CONTAINER_RUNNING:
				// It was in time.
				h.requireWhole(t, c)
			default:
				t.Errorf("state after the restart: %s, want CREATED", state)
			}
			h.requireIntact(t)
			c.Remove()
			forgetLog(t, c)
			h.requireIntact(t)
			n.RequireNoLeak(t, before)
		})
	}
	if cutOff < 4 {
		t.Errorf("only %d restores were cut off: the test does not test what it should", cutOff)
	}

	for _, tc := range []struct {
		m      moment
		who    string
		victim func(id string) int
	}{
		{atRunc, "runc", runcOf}, {atMount, "runc", runcOf}, {atCRIU, "runc", runcOf}, {atPages, "runc", runcOf},
		{atCRIU, "CRIU", criuOf}, {atProcess, "CRIU", criuOf}, {atPages, "CRIU", criuOf},
		{atPages, "process", func(id string) int { return slices.Max(inCgroupOf(id)) }},
	} {
		t.Run(tc.who+", "+tc.m.name, func(t *testing.T) {
			before := n.Inventory(t)
			c := h.create(t)
			err, over := hit(t.Context(), t, c, tc.m, func() {
				if pid := tc.victim(c.ID); pid != 0 {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			})
			if over {
				t.Fatal("the restore was over")
			}
			if err == nil || !strings.Contains(err.Error(), "restore of container "+c.ID+" failed") {
				t.Errorf("start: got %v, want an error that says that the restore failed", err)
			}
			if st := c.Status(); st.GetState() != runtime.ContainerState_CONTAINER_EXITED || st.GetReason() != "StartError" {
				t.Errorf("status: %s, %s, want EXITED, StartError", st.GetState(), st.GetReason())
			}
			if left := inCgroupOf(c.ID); len(left) > 0 {
				t.Errorf("processes left: %v", left)
			}
			// What it had made is killed when it ends, and not when runc has given up removing a cgroup with processes in it.
			if tc.who == "CRIU" && tc.m.name == atPages.name &&
				!strings.Contains(n.DaemonLog(), "CRIU has ended before its restore has") {
				t.Error("the end of CRIU was not seen")
			}
			h.requireIntact(t)
			c.Remove()
			forgetLog(t, c)
			h.requireIntact(t)
			n.RequireNoLeak(t, before)
		})
	}

	for i, m := range []moment{atBundle(n), atRunc, atMount, atCRIU, atProcess, atPages, atMost,
		after(300 * time.Millisecond)} {
		t.Run("caller, "+m.name, func(t *testing.T) {
			before := n.Inventory(t)
			c := h.create(t)
			ctx, cancel := context.WithCancel(t.Context())
			if i%2 == 1 {
				// With a deadline, which runc gets as well.
				ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
			}
			defer cancel()
			err, _ := hit(ctx, t, c, m, cancel)
			if got := status.Code(err); err != nil && got != codes.Canceled && got != codes.DeadlineExceeded {
				t.Errorf("start: %v, want the end of its context", err)
			}
			switch st := requireSettles(t, c); st.GetState() {
			case runtime.ContainerState_CONTAINER_RUNNING:
				h.requireWhole(t, c)
			case runtime.ContainerState_CONTAINER_EXITED:
				if st.GetReason() != "StartError" {
					t.Errorf("reason: %s, %s, want StartError", st.GetReason(), st.GetMessage())
				}
				if left := inCgroupOf(c.ID); len(left) > 0 {
					t.Errorf("processes left: %v", left)
				}
			}
			h.requireIntact(t)
			c.Remove()
			forgetLog(t, c)
			h.requireIntact(t)
			n.RequireNoLeak(t, before)
		})
	}

	c := h.create(t)
	c.Start()
	h.requireWhole(t, c)
}
