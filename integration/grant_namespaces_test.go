package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cgroup"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timens"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/userns"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// namespaceIDs are the fields with the namespaces of a process, by the name in proc(5).
var namespaceIDs = map[string]func(*criu_core.TaskKobjIdsEntry) **uint32{
	"pid":    func(i *criu_core.TaskKobjIdsEntry) **uint32 { return &i.PidNsId },
	"net":    func(i *criu_core.TaskKobjIdsEntry) **uint32 { return &i.NetNsId },
	"ipc":    func(i *criu_core.TaskKobjIdsEntry) **uint32 { return &i.IpcNsId },
	"uts":    func(i *criu_core.TaskKobjIdsEntry) **uint32 { return &i.UtsNsId },
	"mnt":    func(i *criu_core.TaskKobjIdsEntry) **uint32 { return &i.MntNsId },
	"user":   func(i *criu_core.TaskKobjIdsEntry) **uint32 { return &i.UserNsId },
	"cgroup": func(i *criu_core.TaskKobjIdsEntry) **uint32 { return &i.CgroupNsId },
	"time":   func(i *criu_core.TaskKobjIdsEntry) **uint32 { return &i.TimeNsId },
}

// TestGrantNamespaces moves a process into a namespace of its own, or of the node (T36).
func TestGrantNamespaces(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newFamilyGrant(t, n)
	ids := func(e *imageEditor, pid uint32, change func(ids, node *criu_core.TaskKobjIdsEntry)) {
		inventory, err := e.Images().Inventory()
		if err != nil {
			t.Fatal(err)
		}
		editEntry(e, fmt.Sprintf("ids-%d.img", pid), "IDS",
			func(i *criu_core.TaskKobjIdsEntry) { change(i, inventory.GetRootIds()) })
	}
	for name, field := range namespaceIDs {
		for _, first := range []bool{true, false} {
			pid := func(e *imageEditor) uint32 {
				if first {
					return 1
				}
				return e.LastProcess()
			}
			t.Run(fmt.Sprintf("%s of its own, first %t", name, first), func(t *testing.T) {
				if first && name != "user" && name != "time" && name != "cgroup" {
					return // The first one's are its own: that is the honest checkpoint.
				}
				g.refusesNamespace(t, func(e *imageEditor) {
					ids(e, pid(e), func(i, _ *criu_core.TaskKobjIdsEntry) { *field(i) = proto.Uint32(99) })
				})
			})
			if name == "user" || name == "time" || name == "cgroup" {
				continue // These are the node's in the honest checkpoint.
			}
			t.Run(fmt.Sprintf("%s of the node, first %t", name, first), func(t *testing.T) {
				if first && (name == "ipc" || name == "uts") {
					return // CRIU joins the pod's, whatever was dumped: TestHostNamespaces.
				}
				g.refusesNamespace(t, func(e *imageEditor) {
					ids(e, pid(e), func(i, node *criu_core.TaskKobjIdsEntry) { *field(i) = *field(node) })
				})
			})
		}
	}
	t.Run("missing", func(t *testing.T) {
		g.refusesEdited(t, func(e *imageEditor) { e.Remove(fmt.Sprintf("ids-%d.img", e.LastProcess())) },
			codes.InvalidArgument, "ids-")
	})
	t.Run("in the core image", func(t *testing.T) {
		// CRIU takes these if it finds no image with the others.
		g.refusesEdited(t, func(e *imageEditor) {
			own, err := e.Images().IDs(1)
			if err != nil {
				t.Fatal(err)
			}
			pid := e.LastProcess()
			e.Core(pid, func(c *criu_core.CoreEntry) { c.Ids = own })
			e.Remove(fmt.Sprintf("ids-%d.img", pid))
		}, codes.InvalidArgument, "image")
	})
	t.Run("map of users", func(t *testing.T) {
		g.refusesEdited(t, func(e *imageEditor) {
			extent := &userns.UidGidExtent{First: proto.Uint32(0), LowerFirst: proto.Uint32(0), Count: proto.Uint32(4294967295)}
			e.Add("userns-7.img", "USERNS", &userns.UsernsEntry{UidMap: []*userns.UidGidExtent{extent},
				GidMap: []*userns.UidGidExtent{extent}})
		}, codes.PermissionDenied, "userns-7.img")
	})
	t.Run("twin", func(t *testing.T) {
		g.accepts(t, g.archive, func(c *harness.Container) {
			if all := processStatus(t, c); len(all) < 2 {
				t.Errorf("%d processes, want the child too", len(all))
			}
		})
	})
}

// refusesNamespace is refused as it does not fit, or as more than was granted.
func (g *grant) refusesNamespace(t *testing.T, change func(*imageEditor)) {
	t.Helper()
	before := g.n.Inventory(t)
	c, err := g.pod.TryCreate("victim", editImages(t, g.archive, change), g.opts...)
	if err == nil {
		c.Remove()
		forgetLog(t, c)
		t.Fatal("a container was created from a checkpoint with another namespace")
	}
	// Of a time namespace there would have to be an image.
	if !strings.Contains(err.Error(), "namespace") && !strings.Contains(err.Error(), "timens-") {
		t.Errorf("the error does not say it is about a namespace: %v", err)
	}
	g.n.RequireNoLeak(t, before)
}

// TestGrantClocks gives a checkpoint clocks of its own. CRIU always makes a time namespace, in which they go on
// from where the image says: that must be the container's alone (T38).
func TestGrantClocks(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newGrant(t, n)
	set := func(seconds, nanoseconds uint64) func(*imageEditor) {
		return func(e *imageEditor) {
			editEntry(e, e.Name("timens-*.img"), "TIMENS", func(c *timens.TimensEntry) {
				c.Boottime = &timens.Timespec{TvSec: &seconds, TvNsec: &nanoseconds}
			})
		}
	}
	t.Run("set", func(t *testing.T) {
		const year = 365 * 24 * 60 * 60
		g.accepts(t, editImages(t, g.archive, set(10*year, 0)), func(c *harness.Container) {
			var uptime float64
			if _, err := fmt.Sscan(c.Exec("cat", "/proc/uptime"), &uptime); err != nil || uptime < 10*year || uptime > 11*year {
				t.Errorf("uptime in the container: %f, error %v, want ten years", uptime, err)
			}
			if _, err := fmt.Sscan(readFile(t, "/proc/uptime"), &uptime); err != nil || uptime > 9*year {
				t.Errorf("uptime of the node: %f, error %v", uptime, err)
			}
		})
	})
	for what, change := range map[string]func(*imageEditor){
		"in an age":            set(1<<60, 0),
		"too many nanoseconds": set(1, 1<<62),
	} {
		t.Run(what, func(t *testing.T) { g.refusesEdited(t, change, codes.InvalidArgument, "timens-") })
	}
	t.Run("second image", func(t *testing.T) {
		g.refusesEdited(t, func(e *imageEditor) { e.Write("timens-99.img", e.Read(e.Name("timens-*.img"))) },
			codes.InvalidArgument, "timens-99.img")
	})
	t.Run("twin", func(t *testing.T) { g.accepts(t, g.archive, nil) })
}

// TestGrantCgroups gives a checkpoint other cgroups, with properties. They do not count: the
// processes are in the pod's, and nothing else is made or written (T35).
func TestGrantCgroups(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	const limit = 96 << 20
	g := newFamilyGrant(t, n, harness.MemoryLimit(limit))
	evil := unique("evil-" + n.ID())
	foreign := func(e *imageEditor) {
		editEntry(e, "cgroup.img", "CGROUP", func(c *cgroup.CgroupEntry) {
			for _, set := range c.GetSets() {
				for _, member := range set.GetCtls() {
					member.Path = proto.String("/" + evil)
				}
			}
			for _, controller := range c.GetControllers() {
				dir := &cgroup.CgroupDirEntry{DirName: proto.String(evil)}
				if strings.Join(controller.GetCnames(), ",") == "memory" {
					dir.Properties = []*cgroup.CgroupPropEntry{{Name: proto.String("memory.limit_in_bytes"),
						Value: proto.String("9223372036854771712")}}
				}
				controller.Dirs = append(controller.Dirs, dir)
			}
		})
	}
	t.Run("paths", func(t *testing.T) {
		g.accepts(t, editImages(t, g.archive, foreign), func(c *harness.Container) {
			requireOwnCgroup(t, c, evil)
			if got := memoryLimit(t, c); got != limit {
				t.Errorf("memory limit: %d, want %d", got, limit)
			}
		})
		found, err := filepath.Glob("/sys/fs/cgroup/*/" + evil)
		if one, err2 := filepath.Glob("/sys/fs/cgroup/" + evil); err != nil || err2 != nil || len(found)+len(one) > 0 {
			t.Errorf("cgroups of the checkpoint: %q %q, errors %v %v", found, one, err, err2)
		}
	})
	// A set of its own makes CRIU move one process, or one thread, apart from the others.
	for what, change := range map[string]func(*criu_core.CoreEntry){
		"one process": func(c *criu_core.CoreEntry) { c.ThreadCore.CgSet, c.Tc.CgSet = proto.Uint32(7), proto.Uint32(7) },
		"one thread":  func(c *criu_core.CoreEntry) { c.ThreadCore.CgSet = proto.Uint32(7) },
	} {
		t.Run("set of "+what, func(t *testing.T) {
			archive := editImages(t, g.archive, func(e *imageEditor) {
				foreign(e)
				editEntry(e, "cgroup.img", "CGROUP", func(c *cgroup.CgroupEntry) {
					set := proto.Clone(c.GetSets()[0]).(*cgroup.CgSetEntry)
					set.Id = proto.Uint32(7)
					c.Sets = append(c.Sets, set)
				})
				e.Core(e.LastProcess(), change)
			})
			g.notMore(t, archive, func(c *harness.Container) { requireOwnCgroup(t, c, evil) })
		})
	}
	t.Run("twin", func(t *testing.T) {
		g.accepts(t, g.archive, func(c *harness.Container) { requireOwnCgroup(t, c, evil) })
	})
}

// requireOwnCgroup fails the test unless every process of the container is in the container's cgroup.
func requireOwnCgroup(t *testing.T, c *harness.Container, foreign string) {
	t.Helper()
	var all []map[string]string
	// The kernel's list of a cgroup may miss some while others end.
	eventually(t, "the child in the container's cgroup, too", func() bool {
		all = processStatus(t, c)
		return len(all) >= 2
	})
	for _, status := range all {
		data, err := os.ReadFile(filepath.Join("/proc", status["Pid"], "cgroup"))
		if err != nil {
			continue // it has ended meanwhile
		}
		content := string(data)
		if strings.Contains(content, foreign) {
			t.Errorf("process %s is in a cgroup of the checkpoint's: %s", status["Pid"], content)
		}
	}
}

// notMore is for a checkpoint that may be refused, or that CRIU may fail on. If it is restored
// the pod must not have got more than it was granted.
func (g *grant) notMore(t *testing.T, archive string, use func(*harness.Container)) {
	t.Helper()
	before := g.n.Inventory(t)
	if c, err := g.pod.TryCreate("victim", archive, g.opts...); err == nil {
		if err := c.TryStart(); err == nil {
			use(c)
		} else {
			t.Logf("not restored: %v", err)
		}
		c.Remove()
		forgetLog(t, c)
	} else {
		t.Logf("refused: %v", err)
	}
	g.n.RequireNoLeak(t, before)
}
