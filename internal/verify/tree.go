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
