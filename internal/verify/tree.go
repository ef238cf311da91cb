package verify

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// pidMaxFile is a variable for the tests only.
var pidMaxFile = "/proc/sys/kernel/pid_max"

// tree checks the numbers of processes, process groups and sessions. A group or session whose
// leader is gone is ordinary: CRIU makes a process with that number, and ends it (criu/pstree.c,
// prepare_pstree_ids). But for a number that is too large it raises the node's limit
// (prepare_pstree).
func (v *verifier) tree() error {
	const name = "pstree.img"
	text, err := os.ReadFile(pidMaxFile)
	if err != nil {
		return err
	}
	limit, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return fmt.Errorf("%s: %w", pidMaxFile, err)
	}
	threads := map[uint32]bool{}
	for _, p := range v.processes {
		for tid := range p.Others {
			threads[tid] = true
		}
	}
	for _, p := range v.processes {
		if p.GetSid() == 0 {
			return malformed(name, "process %d has no session", p.GetPid())
		}
		if threads[p.GetSid()] || threads[p.GetPgid()] {
			return malformed(name, "session %d or group %d of process %d is a thread", p.GetSid(), p.GetPgid(), p.GetPid())
		}
		numbers := map[string]uint32{"pid": p.GetPid(), "pgid": p.GetPgid(), "sid": p.GetSid()}
		for tid := range p.Others {
			numbers["tid"] = max(numbers["tid"], tid)
		}
		for field, n := range numbers {
			if uint64(n) >= limit {
				v.refuse(Finding{
					Check: "namespaces", Object: processName(p), Field: field, Found: fmt.Sprint(n), Allowed: fmt.Sprintf("less than %d", limit),
					Remedy: "set the node's sysctl kernel.pid_max as on the node of the checkpoint",
				})
			}
		}
	}
	return nil
}

// cgroups makes CRIU read that there are no cgroups: all processes begin in the pod's, where CRIU is
// itself. With manage-cgroups=ignore it makes no cgroup and sets no property, but still moves single
// threads, and opens files to do so whose paths come from the image (criu/cgroup.c, cgroupd).
func (v *verifier) cgroups() error {
	const name = "cgroup.img"
	if _, ok := v.images.Size(name); !ok {
		return nil
	}
	for _, p := range v.processes {
		leader := p.Core.GetThreadCore()
		for tid, core := range p.Others {
			// The condition of criu/cr-restore.c, sigreturn_restore.
			set := p.Core.GetTc().GetCgSet()
			if leader != nil && leader.CgSet != nil {
				set = leader.GetCgSet()
			}
			if t := core.GetThreadCore(); t != nil && t.CgSet != nil && t.GetCgSet() != set {
				v.edit(tid, core).ThreadCore.CgSet = nil
			}
		}
	}
	return v.replace(name, "CGROUP")
}
