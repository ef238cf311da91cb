package verify

import (
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// resources is how many kinds of limits there are (RLIM_NLIMITS).
const resources = 16

// resourceNames are the names in the OCI spec, by the number of the resource.
var resourceNames = [resources]string{
	unix.RLIMIT_CPU:        "RLIMIT_CPU",
	unix.RLIMIT_FSIZE:      "RLIMIT_FSIZE",
	unix.RLIMIT_DATA:       "RLIMIT_DATA",
	unix.RLIMIT_STACK:      "RLIMIT_STACK",
	unix.RLIMIT_CORE:       "RLIMIT_CORE",
	unix.RLIMIT_RSS:        "RLIMIT_RSS",
	unix.RLIMIT_NPROC:      "RLIMIT_NPROC",
	unix.RLIMIT_NOFILE:     "RLIMIT_NOFILE",
	unix.RLIMIT_MEMLOCK:    "RLIMIT_MEMLOCK",
	unix.RLIMIT_AS:         "RLIMIT_AS",
	unix.RLIMIT_LOCKS:      "RLIMIT_LOCKS",
	unix.RLIMIT_SIGPENDING: "RLIMIT_SIGPENDING",
	unix.RLIMIT_MSGQUEUE:   "RLIMIT_MSGQUEUE",
	unix.RLIMIT_NICE:       "RLIMIT_NICE",
	unix.RLIMIT_RTPRIO:     "RLIMIT_RTPRIO",
	unix.RLIMIT_RTTIME:     "RLIMIT_RTTIME",
}

// hardLimits returns those of a new container: the spec's, and where it says nothing those that the
// container inherits. A process can raise its soft limits up to them.
func (v *verifier) hardLimits(own inherited) [resources]uint64 {
	hard := own.hard
	for _, limit := range v.spec.Process.Rlimits {
		for n, name := range resourceNames {
			if name == limit.Type {
				hard[n] = limit.Hard
			}
		}
	}
	return hard
}

// rlimits lowers the limits to those of a new container. CRIU would set every one as it is in the image,
// and leaves its own, which it has raised as far as it goes, where there is none
// (pie/restorer.c, restore_rlims; util.c, rlimit_unlimit_nofile).
//
// A process that can raise them again keeps what it has.
func (v *verifier) rlimits(t thread, g granted, hard [resources]uint64) error {
	limits := t.core.GetTc().GetRlimits().GetRlimits()
	if len(limits) != resources {
		return t.malformed("it has %d resource limits, not %d", len(limits), resources)
	}
	if g.permitted.has(capSysResource) {
		return nil
	}
	for n, limit := range limits {
		if limit.GetMax() <= hard[n] {
			continue
		}
		e := v.edit(t.tid, t.core).Tc.Rlimits.Rlimits[n]
		e.Max = proto.Uint64(hard[n])
		e.Cur = proto.Uint64(min(limit.GetCur(), hard[n]))
	}
	return nil
}
