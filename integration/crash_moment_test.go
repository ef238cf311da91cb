package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// moment is one of a restore; come says whether it has come.
type moment struct {
	name string
	come func(id string) bool
}

// The moments of a restore, in their order. The heap of the checkpoint is so large that
// from the first to the last it takes some tenths of a second.
var (
	atRunc    = moment{"runc runs", func(id string) bool { return runcOf(id) != 0 }}
	atMount   = moment{"root is bound", func(id string) bool { return criuRootOf(id) != "" }}
	atCRIU    = moment{"CRIU runs", func(id string) bool { return criuOf(id) != 0 }}
	atProcess = moment{"a process is made", func(id string) bool { return len(inCgroupOf(id)) >= 2 }}
	atPages   = moment{"a fifth of the memory is there", func(id string) bool { return residentOf(id) > 100<<20 }}
	atMost    = moment{"most of the memory is there", func(id string) bool { return residentOf(id) > 400<<20 }}
)

// atBundle is when the shim is about to get the task.
func atBundle(n *harness.Node) moment {
	return moment{"bundle is made", func(id string) bool {
		_, err := os.Stat(filepath.Join(n.State(), "io.containerd.runtime.v2.task", "k8s.io", id))
		return err == nil
	}}
}

func after(d time.Duration) moment {
	var since time.Time
	return moment{d.String(), func(string) bool {
		if since.IsZero() {
			since = time.Now()
		}
		return time.Since(since) >= d
	}}
}

// hit starts the container and acts at the moment. It returns the start's error, and
// whether the start had ended before.
func hit(ctx context.Context, t *testing.T, c *harness.Container, m moment, act func()) (started error, over bool) {
	t.Helper()
	result := make(chan error, 1)
	go func() { result <- startIn(ctx, c) }()
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for !m.come(c.ID) {
		select {
		case err := <-result:
			return err, true
		case <-tick.C:
		}
	}
	act()
	select {
	case err := <-result:
		return err, false
	case <-time.After(2 * time.Minute): // as long as the kubelet waits
		t.Fatal("the start does not return")
		return nil, false
	}
}

// processes calls f for every process, until it returns false.
func processes(f func(pid int, dir string) bool) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && !f(pid, filepath.Join("/proc", e.Name())) {
			return
		}
	}
}

// runcOf is the runc that restores the container, 0 for none.
func runcOf(id string) (found int) {
	processes(func(pid int, dir string) bool {
		content, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := strings.Split(strings.TrimSuffix(string(content), "\x00"), "\x00")
		if filepath.Base(args[0]) == "runc" && slices.Contains(args, "restore") && args[len(args)-1] == id {
			found = pid
		}
		return found == 0
	})
	return found
}

// criuOf is the CRIU that restores, a child of runc in the container's cgroup. (Another
// one before it only tells its version.)
func criuOf(id string) (found int) {
	parent := runcOf(id)
	if parent == 0 {
		return 0
	}
	processes(func(pid int, dir string) bool {
		content, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		stat, _ := os.ReadFile(filepath.Join(dir, "stat"))
		_, after, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(after)
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if strings.Contains(string(content), "\x00swrk\x00") && strings.Contains(string(cgroup), id) && len(fields) > 1 &&
			fields[1] == strconv.Itoa(parent) {
			found = pid
		}
		return found == 0
	})
	return found
}

// inCgroupOf are the processes in the container's cgroup: CRIU and what it makes.
func inCgroupOf(id string) (found []int) {
	processes(func(pid int, dir string) bool {
		if content, _ := os.ReadFile(filepath.Join(dir, "cgroup")); strings.Contains(string(content), id) {
			found = append(found, pid)
		}
		return true
	})
	return found
}

// residentOf is the largest process in the container's cgroup, in bytes.
func residentOf(id string) (largest int) {
	for _, pid := range inCgroupOf(id) {
		content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if fields := strings.Fields(string(content)); len(fields) > 1 {
			pages, _ := strconv.Atoi(fields[1])
			largest = max(largest, pages*os.Getpagesize())
		}
	}
	return largest
}

// criuRootOf is where runc has bound the root file system for CRIU, below its own
// state directory: if that was deleted with the mount, so would be the root file system.
func criuRootOf(id string) (found string) {
	mounts, _ := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasSuffix(m.Mountpoint, id+"/criu-root"), false
	})
	if len(mounts) > 0 {
		found = mounts[0].Mountpoint
	}
	return found
}
