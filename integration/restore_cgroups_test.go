package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cgroup"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestRestoreCgroupNamespace restores containers of which each has the cgroup namespace of an ordinary one: with cgroup
// v2 its own, at its cgroup, or the node's if it is privileged; with v1 the node's. No checkpoint decides it.
func TestRestoreCgroupNamespace(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	options := cgroupOptions(t)
	pod := n.Pod(t)
	c := pod.Run("old", n.Image(harness.Busybox), harness.Counting(), harness.MemoryLimit(96<<20))
	c.WaitCount(3)
	requireCgroupView(t, c, unified())
	archive := checkpointOf(t, c)
	c.Remove()
	requireCgroupOptions(t, options)

	for generation, source := range []string{archive, imageOf(t, n, archive)} {
		c := n.Pod(t).Run("restored", source, harness.MemoryLimit(96<<20))
		requireContinues(t, c, 3)
		requireCgroupView(t, c, unified())
		again := checkpointOf(t, c)
		c.Remove()
		next := n.Pod(t).Run("again", again, harness.MemoryLimit(96<<20))
		requireContinues(t, next, 3)
		requireCgroupView(t, next, unified())
		next.Pod.Remove()
		t.Logf("source %d is restored twice", generation)
	}
	requireCgroupOptions(t, options)

	// CRIU's first process stays in the node's namespace if it has the number of CRIU's own cgroup, or none.
	for what, edit := range map[string]func(*imageEditor){
		"the set of CRIU": func(e *imageEditor) {
			editEntry(e, "inventory.img", "INVENTORY", func(i *inventory.InventoryEntry) { i.RootCgSet = proto.Uint32(2) })
			e.EachThread(func(_ uint32, core *criu_core.CoreEntry) { core.ThreadCore.CgSet = proto.Uint32(2) })
		},
		"no set": func(e *imageEditor) {
			e.EachThread(func(_ uint32, core *criu_core.CoreEntry) {
				core.ThreadCore.CgSet = nil
				if core.Tc != nil {
					core.Tc.CgSet = nil
				}
			})
		},
		"no prefix, and the root": func(e *imageEditor) {
			editEntry(e, "cgroup.img", "CGROUP", func(c *cgroup.CgroupEntry) {
				for _, set := range c.GetSets() {
					for _, ctl := range set.GetCtls() {
						ctl.CgnsPrefix, ctl.Path = nil, proto.String("/")
					}
				}
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := n.In(t).Pod(t).Run("restored", editImages(t, archive, edit), harness.MemoryLimit(96<<20))
			requireContinues(t, c, 3)
			requireCgroupView(t, c, unified())
			c.Pod.Remove()
		})
	}

	t.Run("privileged", func(t *testing.T) {
		privileged := func() *harness.Pod {
			return n.In(t).Pod(t, func(s *harness.PodSpec) { s.Config.Linux.SecurityContext.Privileged = true })
		}
		c := privileged().Run("old", n.Image(harness.Busybox), harness.Counting(), harness.Privileged())
		c.WaitCount(3)
		archive := checkpointOf(t, c)
		c.Pod.Remove()
		restored := privileged().Run("restored", archive, harness.Privileged())
		requireContinues(t, restored, 3)
		requireCgroupView(t, restored, false)
		restored.Pod.Remove()
	})
	requireCgroupOptions(t, options)
}

// requireCgroupView fails the test unless the container, all of its processes and an exec, sees its own cgroup as the
// root of all, or the node's.
func requireCgroupView(t *testing.T, c *harness.Container, own bool) {
	t.Helper()
	if got := !sameNamespace(t, c, "cgroup"); got != own {
		t.Errorf("container %s: a cgroup namespace of its own: %t, want %t", c.ID, got, own)
	}
	want := namespace(t, c, "cgroup")
	for _, pid := range strings.Fields(readFile(t, filepath.Join(cgroupDir(t, c, "memory"), "cgroup.procs"))) {
		got, err := os.Readlink(filepath.Join("/proc", pid, "ns/cgroup"))
		if err == nil && got != want { // one that has ended has none
			t.Errorf("process %s of container %s is in %s, want %s", pid, c.ID, got, want)
		}
	}
	if !unified() {
		return
	}
	group, file := strings.TrimSpace(c.Exec("cat", "/proc/self/cgroup")), "/sys/fs/cgroup/memory.max"
	if (group == "0::/") != own {
		t.Errorf("an exec in container %s is in cgroup %s, in a namespace of its own: %t", c.ID, group, own)
	}
	if limit, _, code, err := c.TryExec("cat", file); err != nil || (code == 0) != own || own &&
		strings.TrimSpace(limit) == "max" {
		t.Errorf("container %s reads %q in %s, exit code %d, error %v; in a namespace of its own: %t", c.ID, limit, file,
			code, err, own)
	}
}

// cgroupOptions are the mount options of cgroup v2, which are the whole node's.
func cgroupOptions(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/proc/self/mountinfo")) {
		_, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		if fields := strings.Fields(after); len(fields) == 3 && fields[0] == "cgroup2" {
			return fields[2]
		}
	}
	return ""
}

// requireCgroupOptions waits until they are again what they were: a dump of CRIU, of another test too, takes them away
// until it has ended.
func requireCgroupOptions(t *testing.T, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for cgroupOptions(t) != want {
		select {
		case <-ctx.Done():
			t.Fatalf("mount options of cgroup v2: %s, before the checkpoint %s", cgroupOptions(t), want)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
