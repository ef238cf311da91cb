package verify

import (
	"google.golang.org/protobuf/proto"
)

// unset is the loginuid of a process that no login has started.
const unset = 1<<32 - 1

// limits forces rlimits, OOM score and login of every process to what a new container has, and refuses
// what can be neither forced nor reached: scheduling, alarms.
//
// Not compared, because none of it reaches beyond the process, which can set it itself
// without any capability:
//   - the dumpable flag: CRIU sets no other than 0 or 1, and 0 where the image has a value that only the kernel
//     gives and the kernel has not given (pie/restorer.c, restore_dumpable_flag);
//   - the signal at the death of the parent, which goes to the process itself, and the adoption of orphans,
//     which are its own descendants;
//   - the signal actions, stacks and masks, and the queued signals, which go to the process itself;
//   - the time of its timers. The kernel gives a timer to no thread of another process (timer_create(2));
//   - the personality: CRIU does not restore it.
//
// The cgroups of processes and threads are those of the pod, see cgroups.
func (v *verifier) limits() error {
	g, own, err := v.granted()
	if err != nil {
		return err
	}
	hard := v.hardLimits(own)
	for _, p := range v.processes {
		for _, t := range threads(p) {
			if t.core.GetThreadCore() == nil {
				return t.malformed("it says nothing of the thread")
			}
			if err := v.registers(t); err != nil {
				return err
			}
			if err := v.signals(t); err != nil {
				return err
			}
			v.scheduling(t, g, hard)
			if t.tid != t.pid {
				continue
			}
			if err := v.rlimits(t, g, hard); err != nil {
				return err
			}
			v.oomScore(t)
			v.login(t)
			if err := v.timers(t, g); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *verifier) refuseLimit(t thread, field, found, allowed, remedy string) {
	v.refuse(Finding{Check: "limits", Object: t.String(), Field: field, Found: found, Allowed: allowed, Remedy: remedy})
}

// oomScore forces the spec's OOM score, as runc would. CRIU writes no zero (cr-restore.c, prepare_proc_misc): the
// process would keep what CRIU has from the shim, one more than containerd's, which usually is close to
// "never". One is the nearest that can be forced. If the spec has none the container has the shim's.
func (v *verifier) oomScore(t thread) {
	tc := t.core.GetTc()
	want := v.spec.Process.OOMScoreAdj
	if want == nil {
		if tc.GetOomScoreAdj() != 0 {
			v.edit(t.tid, t.core).Tc.OomScoreAdj = nil
		}
		return
	}
	score := int32(*want)
	if score == 0 {
		score = 1
	}
	if tc.GetOomScoreAdj() != score {
		v.edit(t.tid, t.core).Tc.OomScoreAdj = proto.Int32(score)
	}
}

// login removes the login to which the audit log would attribute what the process does. CRIU starts the container
// without one (cr-restore.c, prepare_userns_hook), and so does runc on a node whose containerd is a service.
func (v *verifier) login(t thread) {
	if tc := t.core.GetTc(); tc.Loginuid != nil && tc.GetLoginuid() != unset {
		v.edit(t.tid, t.core).Tc.Loginuid = proto.Uint32(unset)
	}
}
