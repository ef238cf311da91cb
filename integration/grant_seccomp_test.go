package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/apparmor"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// program puts a BPF program together of instructions (linux/filter.h: struct sock_filter).
func program(instructions ...unix.SockFilter) []byte {
	var out bytes.Buffer
	_ = binary.Write(&out, binary.LittleEndian, instructions)
	return out.Bytes()
}

func returns(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

var (
	// allowAll is a filter that filters nothing.
	allowAll = program(returns(unix.SECCOMP_RET_ALLOW))
	// pretend makes each later seccomp(2) succeed without effect.
	pretend = program(
		unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_SECCOMP},
		returns(unix.SECCOMP_RET_ERRNO), returns(unix.SECCOMP_RET_ALLOW))
)

// Seccomp changes the filters of all processes.
func (e *imageEditor) Seccomp(change func([]*seccomp.SeccompFilter) []*seccomp.SeccompFilter) {
	e.t.Helper()
	editEntry(e, "seccomp.img", "SECCOMP", func(s *seccomp.SeccompEntry) {
		if s.SeccompFilters = change(s.GetSeccompFilters()); len(s.SeccompFilters) == 0 {
			e.t.Fatal("no filter is left")
		}
	})
}

// seccompAttacks are T28. A thread names the filter that CRIU installs first; that one names the next.
var seccompAttacks = []struct {
	what   string
	code   codes.Code
	word   string
	change func(*imageEditor)
}{
	// CRIU writes the filters of all threads to the first one, for all of them (TSYNC), and none to the others.
	{"only on the first thread", codes.PermissionDenied, "thread", func(e *imageEditor) { withoutSync(e) }},
	{"none on one thread", codes.PermissionDenied, "thread", func(e *imageEditor) {
		apart(e)
		e.Core(e.LastThread(), func(c *criu_core.CoreEntry) {
			c.ThreadCore.SeccompMode, c.ThreadCore.SeccompFilter = nil,
				nil
		})
	}},
	{"disabled on one thread", codes.PermissionDenied, "thread", func(e *imageEditor) {
		apart(e)
		e.Core(e.LastThread(),
			func(c *criu_core.CoreEntry) { c.ThreadCore.SeccompMode = criu_core.SeccompMode_disabled.Enum() })
	}},
	{"disabled on the first", codes.PermissionDenied, "process 1", func(e *imageEditor) {
		e.Core(1, func(c *criu_core.CoreEntry) { c.ThreadCore.SeccompMode = criu_core.SeccompMode_disabled.Enum() })
	}},
	{"disabled by the process", codes.InvalidArgument, "core-1.img", func(e *imageEditor) {
		// CRIU prefers these old fields to the thread's (criu/cr-restore.c, open_core).
		e.Core(1, func(c *criu_core.CoreEntry) { c.Tc.OldSeccompMode = criu_core.SeccompMode_disabled.Enum() })
	}},
	{"other filter by the process", codes.InvalidArgument, "core-1.img", func(e *imageEditor) {
		e.Seccomp(func(all []*seccomp.SeccompFilter) []*seccomp.SeccompFilter {
			return append(all, &seccomp.SeccompFilter{Filter: allowAll})
		})
		e.Core(1, func(c *criu_core.CoreEntry) { c.Tc.OldSeccompFilter = proto.Uint32(1) })
	}},
	{"allows everything", codes.PermissionDenied, "eccomp", func(e *imageEditor) {
		e.Seccomp(func(all []*seccomp.SeccompFilter) []*seccomp.SeccompFilter {
			all[0].Filter = allowAll
			return all
		})
	}},
	{"allows one call more", codes.PermissionDenied, "eccomp", func(e *imageEditor) {
		e.Seccomp(func(all []*seccomp.SeccompFilter) []*seccomp.SeccompFilter {
			all[0].Filter = bytes.ReplaceAll(all[0].GetFilter(),
				program(returns(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM))), program(returns(unix.SECCOMP_RET_ALLOW)))
			return all
		})
	}},
	{"allows everything on one thread", codes.PermissionDenied, "thread", func(e *imageEditor) {
		apart(e)
		weakLast(e)
	}},
	{"not for a thread with its own", codes.InvalidArgument, "core-", weakLast},
	{"listener", codes.InvalidArgument, "eccomp", func(e *imageEditor) {
		e.Seccomp(func(all []*seccomp.SeccompFilter) []*seccomp.SeccompFilter {
			all[0].Flags = proto.Uint32(all[0].GetFlags() | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
			return all
		})
	}},
	{"image missing", codes.InvalidArgument, "core-1.img", func(e *imageEditor) { e.Remove("seccomp.img") }},
	{"image empty", codes.InvalidArgument, "seccomp", func(e *imageEditor) { e.Add("seccomp.img", "SECCOMP") }},
	{"no such filter", codes.InvalidArgument, "seccomp", func(e *imageEditor) {
		apart(e)
		e.Core(e.LastThread(), func(c *criu_core.CoreEntry) { c.ThreadCore.SeccompFilter = proto.Uint32(7) })
	}},
	{"no such next filter", codes.InvalidArgument, "seccomp", func(e *imageEditor) {
		e.Seccomp(func(all []*seccomp.SeccompFilter) []*seccomp.SeccompFilter {
			all[0].Prev = proto.Uint32(7)
			return all
		})
	}},
	{"filter that follows itself", codes.InvalidArgument, "seccomp", func(e *imageEditor) {
		e.Seccomp(func(all []*seccomp.SeccompFilter) []*seccomp.SeccompFilter {
			all[0].Prev = proto.Uint32(0)
			return all
		})
	}},
	{"filter cut off", codes.InvalidArgument, "seccomp", func(e *imageEditor) {
		e.Seccomp(func(all []*seccomp.SeccompFilter) []*seccomp.SeccompFilter {
			all[0].Filter = all[0].GetFilter()[:len(all[0].GetFilter())-3]
			return all
		})
	}},
}

// withoutSync makes the filters of each thread its own.
func withoutSync(e *imageEditor) {
	e.t.Helper()
	e.Seccomp(func(all []*seccomp.SeccompFilter) []*seccomp.SeccompFilter {
		for _, f := range all {
			f.Flags = proto.Uint32(f.GetFlags() &^ unix.SECCOMP_FILTER_FLAG_TSYNC)
		}
		return all
	})
}

// apart gives every thread the filters of the first one as its own, as CRIU does if those of the threads differ.
func apart(e *imageEditor) {
	e.t.Helper()
	withoutSync(e)
	leader := e.Processes()[0].Core.GetThreadCore()
	e.EachThread(func(_ uint32, c *criu_core.CoreEntry) {
		c.ThreadCore.SeccompMode, c.ThreadCore.SeccompFilter = leader.SeccompMode, leader.SeccompFilter
	})
}

// weakLast gives the last thread a filter of its own that allows all.
func weakLast(e *imageEditor) {
	e.t.Helper()
	n := 0
	e.Seccomp(func(all []*seccomp.SeccompFilter) []*seccomp.SeccompFilter {
		n = len(all)
		return append(all, &seccomp.SeccompFilter{Filter: allowAll})
	})
	e.Core(e.LastThread(), func(c *criu_core.CoreEntry) {
		c.ThreadCore.SeccompMode, c.ThreadCore.SeccompFilter = criu_core.SeccompMode_filter.Enum(), proto.Uint32(uint32(n))
	})
}

// first makes CRIU install a filter before the others.
func first(e *imageEditor, f *seccomp.SeccompFilter) {
	e.t.Helper()
	var n int
	e.Seccomp(func(all []*seccomp.SeccompFilter) []*seccomp.SeccompFilter {
		n = len(all)
		f.Flags = all[0].Flags
		return append(all, f)
	})
	e.Core(1, func(c *criu_core.CoreEntry) { c.ThreadCore.SeccompFilter = proto.Uint32(uint32(n)) })
}

// TestGrantSeccomp weakens the filter of a pod with the runtime's profile (T28).
func TestGrantSeccomp(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newThreadsGrant(t, n, restricted(0)...)
	for _, tc := range seccompAttacks {
		t.Run(tc.what, func(t *testing.T) { g.refusesEdited(t, tc.change, tc.code, tc.word) })
	}
	t.Run("twin", func(t *testing.T) {
		g.accepts(t, g.archive, func(c *harness.Container) {
			requireStatus(t, c, map[string]string{"Seccomp": "2", "Seccomp_filters": "1"})
		})
	})
	t.Run("twin with a filter of its own", func(t *testing.T) {
		// What a process installs itself comes after what it was started with.
		g.accepts(t, editImages(t, g.archive, func(e *imageEditor) {
			e.Seccomp(func(all []*seccomp.SeccompFilter) []*seccomp.SeccompFilter {
				own := &seccomp.SeccompFilter{Filter: allowAll, Flags: all[0].Flags}
				all[0].Prev = proto.Uint32(0)
				return []*seccomp.SeccompFilter{own, all[0]}
			})
			e.Core(1, func(c *criu_core.CoreEntry) { c.ThreadCore.SeccompFilter = proto.Uint32(1) })
		}), func(c *harness.Container) {
			requireStatus(t, c, map[string]string{"Seccomp": "2", "Seccomp_filters": "2"})
		})
	})
	t.Run("pretended", func(t *testing.T) {
		// The filter that CRIU installs first makes it believe that it has installed the others. It has: while it
		// does so the kernel holds filters back (criu/cr-restore.c, attach_to_tasks).
		g.accepts(t, editImages(t, g.archive, func(e *imageEditor) {
			first(e,
				&seccomp.SeccompFilter{Filter: pretend, Prev: proto.Uint32(0)})
		}),
			func(c *harness.Container) {
				requireStatus(t, c, map[string]string{"Seccomp": "2", "Seccomp_filters": "2"})
			})
	})
	t.Run("twin with threads apart", func(t *testing.T) {
		g.accepts(t, editImages(t, g.archive, apart), func(c *harness.Container) {
			requireStatus(t, c, map[string]string{"Seccomp": "2", "Seccomp_filters": "1"})
		})
	})
	t.Run("unconfined", func(t *testing.T) {
		// A pod without a profile was granted all calls; a checkpoint with a filter has less.
		unconfined := newThreadsGrant(t, n)
		g := *g
		g.opts = nil
		g.accepts(t, unconfined.archive, func(c *harness.Container) {
			requireStatus(t, c,
				map[string]string{"Seccomp": "0"})
		})
	})
}

// TestGrantLSM gives a checkpoint labels of security modules, and policies that CRIU would load into the kernel (T29).
func TestGrantLSM(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newFamilyGrant(t, n)
	label := func(change func(*creds.CredsEntry)) func(*imageEditor) {
		return func(e *imageEditor) { e.editCreds(e.LastProcess(), change) }
	}
	for what, tc := range map[string]struct {
		code   codes.Code
		word   string
		change func(*imageEditor)
	}{
		"hat of a profile": {codes.PermissionDenied, "mine//hat",
			label(func(c *creds.CredsEntry) { c.LsmProfile = proto.String("mine//hat") })},
		"stack of profiles": {codes.PermissionDenied, "mine//&other",
			label(func(c *creds.CredsEntry) { c.LsmProfile = proto.String("mine//&other") })},
		"label of sockets": {codes.PermissionDenied, "unconfined_t", label(func(c *creds.CredsEntry) {
			c.LsmSockcreate = proto.String("unconfined_u:unconfined_r:unconfined_t:s0")
		})},
		"policy in the credentials": {codes.PermissionDenied, "process",
			label(func(c *creds.CredsEntry) { c.ApparmorData = []byte("policy") })},
		"policy of AppArmor": {codes.PermissionDenied, "apparmor.img", func(e *imageEditor) {
			e.Add("apparmor.img", "APPARMOR", &apparmor.ApparmorEntry{Namespaces: []*apparmor.AaNamespace{{
				Name: proto.String("evil"), Policies: []*apparmor.AaPolicy{{Name: proto.String("docker-default"),
					Blob: []byte("policy")}},
			}}})
		}},
	} {
		t.Run(what, func(t *testing.T) { g.refusesEdited(t, tc.change, tc.code, tc.word) })
	}
	// A label that is one becomes the pod's, whatever it is.
	want := lsmLabel(t, n)
	for what, archive := range map[string]string{
		"twin": g.archive,
		"SELinux label": editImages(t, g.archive, func(e *imageEditor) {
			e.EachThread(func(_ uint32, core *criu_core.CoreEntry) {
				core.ThreadCore.Creds.LsmProfile = proto.String("unconfined_u:unconfined_r:unconfined_t:s0")
			})
			editEntry(e, "inventory.img", "INVENTORY",
				func(i *inventory.InventoryEntry) { i.Lsmtype = inventory.Lsmtype_SELINUX.Enum() })
		}),
		"profile of another engine": editImages(t, g.archive, func(e *imageEditor) {
			e.EachThread(func(_ uint32, core *criu_core.CoreEntry) {
				core.ThreadCore.Creds.LsmProfile = proto.String("containers-default-0.62.2")
			})
			editEntry(e, "inventory.img", "INVENTORY",
				func(i *inventory.InventoryEntry) { i.Lsmtype = inventory.Lsmtype_APPARMOR.Enum() })
		}),
		"no label": editImages(t, g.archive, func(e *imageEditor) {
			e.EachThread(func(_ uint32, core *criu_core.CoreEntry) { core.ThreadCore.Creds.LsmProfile = nil })
			editEntry(e, "inventory.img", "INVENTORY",
				func(i *inventory.InventoryEntry) { i.Lsmtype = inventory.Lsmtype_NO_LSM.Enum() })
		}),
	} {
		t.Run(what, func(t *testing.T) {
			g.accepts(t, archive, func(c *harness.Container) {
				for _, status := range processStatus(t, c) {
					got, err := readLabel(status["Pid"])
					if _, serr := os.Stat("/proc/" + status["Pid"]); serr != nil {
						continue // it has ended, as every sleep does
					}
					if err != nil || got != want {
						t.Errorf("label of process %s: %q, error %v, want %q as in an ordinary container", status["Pid"], got, err, want)
					}
				}
			})
		})
	}
}

// lsmLabel is the label of an ordinary container, "" without a security module.
func lsmLabel(t *testing.T, n *harness.Node) string {
	t.Helper()
	pod := n.Pod(t)
	defer pod.Remove()
	c := pod.Run("ordinary", n.Image(harness.Busybox), harness.Counting())
	c.WaitCount(1)
	label, err := readLabel(fmt.Sprint(c.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	return label
}

// readLabel returns the label of a process. The kernel has none, or refuses to say, if no module is loaded.
func readLabel(pid string) (string, error) {
	label, err := os.ReadFile("/proc/" + pid + "/attr/current")
	if errors.Is(err, unix.EINVAL) || errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return string(label), err
}
