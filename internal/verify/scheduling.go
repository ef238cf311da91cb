package verify

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// resetOnFork is a flag of the policy that any process can set (SCHED_RESET_ON_FORK).
const resetOnFork = 0x40000000

// policies are the scheduling policies by their names in the spec.
var policies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: unix.SCHED_NORMAL, specs.SchedBatch: unix.SCHED_BATCH, specs.SchedIdle: unix.SCHED_IDLE,
	specs.SchedFIFO: unix.SCHED_FIFO, specs.SchedRR: unix.SCHED_RR, specs.SchedDeadline: unix.SCHED_DEADLINE,
}

// scheduling refuses precedence over other containers that the thread could not have taken for itself (sched(7),
// "Privileges and resource limits"). CRIU sets it when it still is root.
func (v *verifier) scheduling(t thread, g granted, hard [resources]uint64) {
	tc := t.core.GetThreadCore()
	if tc.SchedPolicy == nil || g.permitted.has(capSysNice) {
		return // without a policy CRIU sets the ordinary one (cr-restore.c, prep_sched_info)
	}
	const remedy = "add the capability SYS_NICE as in the pod that was checkpointed, or checkpoint processes of ordinary priority"
	start := v.spec.Process.Scheduler
	if start == nil {
		start = &specs.Scheduler{Policy: specs.SchedOther}
	}
	// RLIMIT_NICE n lets a thread have any nice value down to 20-n. CRIU sets it whatever the policy, and the
	// thread has it when it goes back to the ordinary one.
	lowest := min(int64(start.Nice), 20-int64(min(hard[unix.RLIMIT_NICE], 40)), 0)
	if nice := int64(tc.GetSchedNice()); nice < lowest {
		v.refuseLimit(t, "nice", fmt.Sprint(nice), fmt.Sprintf("%d or more", lowest), remedy)
	}
	switch policy := tc.GetSchedPolicy() &^ resetOnFork; policy {
	case unix.SCHED_NORMAL, unix.SCHED_BATCH, unix.SCHED_IDLE:
	case unix.SCHED_FIFO, unix.SCHED_RR:
		highest := min(hard[unix.RLIMIT_RTPRIO], 99)
		if policies[start.Policy] == policy {
			highest = max(highest, uint64(max(start.Priority, 0)))
		}
		priority := uint64(tc.GetSchedPrio())
		switch {
		case highest == 0:
			v.refuseLimit(t, "scheduling policy", fmt.Sprint(policy), "SCHED_OTHER, SCHED_BATCH or SCHED_IDLE", remedy)
		case priority > highest:
			v.refuseLimit(t, "scheduling priority", fmt.Sprint(priority), fmt.Sprintf("%d or less", highest), remedy)
		}
	default:
		v.refuseLimit(t, "scheduling policy", fmt.Sprint(policy), "one that CRIU can restore", "")
	}
}
