package integration

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestGrantRestricted is the reason for all of this: a pod that is admitted under the Pod Security
// Standard "restricted" runs a checkpoint of a privileged container. It needs no doctored image (F1, T27).
func TestGrantRestricted(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newRestrictedGrant(t, n, newGrant)
	privileged := n.Pod(t, func(s *harness.PodSpec) { s.Config.Linux.SecurityContext.Privileged = true })
	c := privileged.Run("counter", n.Image(harness.Busybox), harness.Counting(), harness.Privileged())
	c.WaitCount(5)
	archive := checkpointOf(t, c)
	ref := imageOf(t, n, archive)
	code, words := codes.PermissionDenied, []string{"process 1", "found 0", "allowed 1000"}
	if unified() { // where only a privileged container is in the node's cgroup namespace, which is looked at first
		code, words = codes.FailedPrecondition, []string{"the cgroup namespace was the host's"}
	}
	for _, source := range []string{archive, ref} {
		t.Run("privileged "+filepath.Base(source), func(t *testing.T) {
			g.refuses(t, source, code, words...)
		})
	}
	// Nor does one that only has what every container has.
	ordinary, _ := countingCheckpoint(t, n)
	for what, tc := range map[string]struct {
		change func(*creds.CredsEntry)
		words  []string
	}{
		"all of it": {func(*creds.CredsEntry) {}, []string{"process 1", "found 0", "allowed 1000"}},
		"as the user": {func(c *creds.CredsEntry) {
			for _, id := range []**uint32{&c.Uid, &c.Euid, &c.Suid, &c.Fsuid, &c.Gid, &c.Egid, &c.Sgid, &c.Fsgid} {
				*id = proto.Uint32(appUser)
			}
		}, []string{"process 1", "CAP_", "no_new_privs"}},
	} {
		t.Run("ordinary "+what, func(t *testing.T) {
			doctored := editImages(t, ordinary, func(e *imageEditor) {
				e.EachThread(func(_ uint32, core *criu_core.CoreEntry) { tc.change(core.GetThreadCore().GetCreds()) })
			})
			g.refuses(t, doctored, codes.PermissionDenied, tc.words...)
		})
	}
	t.Run("twin", func(t *testing.T) {
		want := restrictedStatus()
		want["Groups"] = joined(groupsOf(t, g))
		for _, source := range []string{g.archive, imageOf(t, n, g.archive)} {
			g.accepts(t, source, func(c *harness.Container) {
				requireStatus(t, c, want)
				if _, _, code, err := c.TryExec("touch", "/touched"); err != nil || code == 0 {
					t.Errorf("the root file system can be written: exit code %d, error %v", code, err)
				}
				requireReadonly(t, c, "/", true)
			})
		}
	})
	t.Run("twin of root", func(t *testing.T) {
		c := privileged.Run("restored", ref, harness.Privileged())
		requireContinues(t, c, 5)
		c.Remove()
	})
}

func joined(ids []uint32) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = strconv.Itoa(int(id))
	}
	return strings.Join(texts, " ")
}

// requireReadonly looks at a mount from the host: whoever asks in the container may be forbidden to write for other
// reasons.
func requireReadonly(t *testing.T, c *harness.Container, mountpoint string, want bool) {
	t.Helper()
	found := ""
	for _, line := range strings.Split(readFile(t, fmt.Sprintf("/proc/%d/mountinfo", c.Pid())), "\n") {
		if fields := strings.Fields(line); len(fields) > 5 && fields[4] == mountpoint {
			found = fields[5]
		}
	}
	if got := slices.Contains(strings.Split(found, ","), "ro"); got != want || found == "" {
		t.Errorf("mount %s has options %q, want read-only: %t", mountpoint, found, want)
	}
}

// raised are credentials that a restricted pod does not have, one at a time.
var raised = []struct {
	what   string
	word   string
	change func(*creds.CredsEntry)
}{
	{"uid", "uid", func(c *creds.CredsEntry) { c.Uid = proto.Uint32(0) }},
	{"euid", "uid", func(c *creds.CredsEntry) { c.Euid = proto.Uint32(0) }},
	{"suid", "uid", func(c *creds.CredsEntry) { c.Suid = proto.Uint32(0) }},
	{"fsuid", "uid", func(c *creds.CredsEntry) { c.Fsuid = proto.Uint32(0) }},
	{"other uid", "1001", func(c *creds.CredsEntry) { c.Suid = proto.Uint32(1001) }},
	{"gid", "gid", func(c *creds.CredsEntry) { c.Gid = proto.Uint32(0) }},
	{"egid", "gid", func(c *creds.CredsEntry) { c.Egid = proto.Uint32(0) }},
	{"sgid", "gid", func(c *creds.CredsEntry) { c.Sgid = proto.Uint32(0) }},
	{"fsgid", "gid", func(c *creds.CredsEntry) { c.Fsgid = proto.Uint32(0) }},
	{"group of root", "roup", func(c *creds.CredsEntry) { c.Groups = append(c.Groups, 0) }},
	{"group of the disk", "roup", func(c *creds.CredsEntry) { c.Groups = append(c.Groups, 6) }},
	{"inheritable", "CAP_NET_RAW", func(c *creds.CredsEntry) { c.CapInh = capability(13) }},
	{"permitted", "CAP_SYS_ADMIN", func(c *creds.CredsEntry) { c.CapPrm = capability(21) }},
	{"effective", "CAP_SYS_ADMIN", func(c *creds.CredsEntry) { c.CapPrm, c.CapEff = capability(21), capability(21) }},
	{"bounding", "CAP_SYS_MODULE", func(c *creds.CredsEntry) { c.CapBnd = capability(16) }},
	{"second word", "CAP_BPF", func(c *creds.CredsEntry) { c.CapBnd = capability(39) }},
	{"ambient", "CAP_NET_ADMIN", func(c *creds.CredsEntry) {
		set := capability(12)
		c.CapInh, c.CapPrm = set, set
		setNumbers(c, credsCapAmbient, uint64(set[0]), uint64(set[1]))
	}},
	{"ambient only", "CAP_NET_ADMIN", func(c *creds.CredsEntry) { setNumbers(c, credsCapAmbient, 1<<12, 0) }},
	{"securebits", "ecure", func(c *creds.CredsEntry) { c.Secbits = proto.Uint32(1 << 2) }}, // SECBIT_NO_SETUID_FIXUP
	{"no_new_privs cleared", "no_new_privs", func(c *creds.CredsEntry) { setNumber(c, credsNoNewPrivs, 0) }},
	{"no_new_privs missing", "no_new_privs", func(c *creds.CredsEntry) { setNumbers(c, credsNoNewPrivs) }},
}

// capability is a set with one capability, as CRIU writes it.
func capability(n uint) []uint32 {
	set := make([]uint32, 2)
	set[n/32] = 1 << (n % 32)
	return set
}

// TestGrantCredentials raises one credential of one thread, or of one process among others (T27).
func TestGrantCredentials(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	threads := newRestrictedGrant(t, n, newThreadsGrant)
	for _, tc := range raised {
		t.Run("thread "+tc.what, func(t *testing.T) {
			var tid uint32
			archive := editImages(t, threads.archive, func(e *imageEditor) {
				tid = e.LastThread()
				e.editCreds(tid, tc.change)
			})
			threads.refuses(t, archive, codes.PermissionDenied, fmt.Sprintf("thread %d", tid), tc.word, "found", "allowed")
		})
	}
	t.Run("threads twin", func(t *testing.T) {
		threads.accepts(t, threads.archive, func(c *harness.Container) { requireStatus(t, c, restrictedStatus()) })
	})

	family := newRestrictedGrant(t, n, newFamilyGrant)
	for _, tc := range raised {
		t.Run("child "+tc.what, func(t *testing.T) {
			var pid uint32
			archive := editImages(t, family.archive, func(e *imageEditor) {
				pid = e.LastProcess()
				e.editCreds(pid, tc.change)
			})
			family.refuses(t, archive, codes.PermissionDenied, fmt.Sprintf("process %d", pid), tc.word, "found", "allowed")
		})
	}
	// What CRIU would make of an image without credentials is those of CRIU, or
	// those of an image that nobody has looked at (criu/cr-restore.c, rst_prep_creds).
	t.Run("no credentials", func(t *testing.T) {
		family.refusesEdited(t, func(e *imageEditor) {
			e.Core(e.LastProcess(), func(c *criu_core.CoreEntry) { c.ThreadCore.Creds = nil })
		}, codes.InvalidArgument, "core-")
	})
	t.Run("no thread core", func(t *testing.T) {
		family.refusesEdited(t, func(e *imageEditor) {
			e.Core(e.LastProcess(), func(c *criu_core.CoreEntry) { c.ThreadCore = nil })
		}, codes.InvalidArgument, "core-")
	})
	t.Run("credentials in an image of their own", func(t *testing.T) {
		family.refusesEdited(t, func(e *imageEditor) {
			pid := e.LastProcess()
			e.Core(pid, func(c *criu_core.CoreEntry) {
				root := proto.Clone(c.GetThreadCore().GetCreds()).(*creds.CredsEntry)
				root.Uid = proto.Uint32(0)
				e.Add(fmt.Sprintf("creds-%d.img", pid), "CREDS", root)
				c.ThreadCore.Creds = nil
			})
		}, codes.InvalidArgument, "image")
	})
	t.Run("only in an image of their own", func(t *testing.T) {
		family.refusesEdited(t, func(e *imageEditor) {
			e.Add("creds-1.img", "CREDS", e.Processes()[0].Core.GetThreadCore().GetCreds())
		}, codes.PermissionDenied, "creds-1.img")
	})
	t.Run("two core entries", func(t *testing.T) {
		family.refusesEdited(t, func(e *imageEditor) {
			editEntries(e, "core-1.img", "CORE", func(all []*criu_core.CoreEntry) []*criu_core.CoreEntry {
				root := proto.Clone(all[0]).(*criu_core.CoreEntry)
				root.ThreadCore.Creds.Uid = proto.Uint32(0)
				return []*criu_core.CoreEntry{root, all[0]}
			})
		}, codes.InvalidArgument, "core-1.img")
	})
	t.Run("no groups", func(t *testing.T) {
		// CRIU would leave its own, the host's root's (criu/cr-restore.c, rst_prep_creds_args).
		family.accepts(t, editImages(t, family.archive, func(e *imageEditor) {
			e.EachThread(func(_ uint32, c *criu_core.CoreEntry) { c.ThreadCore.Creds.Groups = nil })
		}), func(c *harness.Container) {
			for _, status := range processStatus(t, c) {
				if groups := status["Groups"]; groups != "" && groups != strconv.Itoa(appUser) {
					t.Errorf("groups of process %s: %q, want no other than %d", status["Pid"], groups, appUser)
				}
			}
		})
	})
	t.Run("family twin", func(t *testing.T) {
		family.accepts(t, family.archive, func(c *harness.Container) { requireStatus(t, c, restrictedStatus()) })
	})
	// A process may have less than it was granted, by its own doing.
	t.Run("less", func(t *testing.T) {
		c := n.Pod(t).Run("counter", n.Image(harness.Busybox), harness.Counting())
		c.WaitCount(5)
		g := &grant{n: n, pod: n.Pod(t), counted: 5, prefix: "count"}
		g.accepts(t, editImages(t, checkpointOf(t, c), func(e *imageEditor) {
			e.EachThread(func(_ uint32, core *criu_core.CoreEntry) {
				c := core.GetThreadCore().GetCreds()
				c.CapInh, c.CapPrm, c.CapEff, c.CapBnd = capability(0), capability(0), capability(0), capability(0)
				setNumber(c, credsNoNewPrivs, 1)
			})
		}), func(c *harness.Container) {
			requireStatus(t, c, map[string]string{"CapEff": "0000000000000001", "CapBnd": "0000000000000001", "NoNewPrivs": "1"})
		})
	})
}
