package seccomp

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The actions that a filter returns, see seccomp(2). The kernel takes the action of
// the filter that returned the lowest number, as a signed one (kernel/seccomp.c, seccomp_run_filters).
const (
	retKillProcess = 0x80000000
	retKillThread  = 0x00000000
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retUserNotif   = 0x7fc00000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000

	maskAction = 0xffff0000
	maskData   = 0x0000ffff
)

// strength is how much an action holds back. Two that do not let the call through are
// equal: neither another error nor a signal is a grant.
type strength int

const (
	allowed strength = iota
	logged
	traced
	denied
)

// strengthOf says what is left of an action after a restore.
//
// No listener comes back: CRIU restores a filter without it, and then any process of the
// container that may add filters can become the listener of its own calls and let them continue, because
// the newest of several filters with this action is asked. So it holds nothing back. Numbers without
// a meaning kill, but the action of another filter may be taken in their place.
func strengthOf(ret uint32) strength {
	switch action := ret & maskAction; {
	case int32(action) < retUserNotif:
		return denied
	case action == retTrace:
		return traced
	case action == retLog:
		return logged
	}
	return allowed
}

var retNames = map[uint32]string{
	retKillProcess: "kill process", retKillThread: "kill", retTrap: "trap", retErrno: "errno",
	retUserNotif: "notify", retTrace: "trace", retLog: "log", retAllow: "allowed",
}

// retName names what a filter returns.
func retName(ret uint32) string {
	if name, ok := retNames[ret&maskAction]; ok {
		return name
	}
	return fmt.Sprintf("action %#x", ret&maskAction)
}

// action is what a profile wants done with a call.
type action struct {
	name     string
	strength strength
	ret      uint32
}

// actionOf reads an action as runc does (libcontainer/seccomp, getAction). What is to be
// put before a listener is held back only by a filter that denies it, because no listener comes back.
func actionOf(a specs.LinuxSeccompAction, errno *uint) (action, error) {
	data := uint32(1) // EPERM
	if errno != nil {
		data = uint32(*errno) & maskData
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return action{"kill", denied, retKillThread}, nil
	case specs.ActKillProcess:
		return action{"kill process", denied, retKillProcess}, nil
	case specs.ActTrap:
		return action{"trap", denied, retTrap}, nil
	case specs.ActErrno:
		return action{"errno", denied, retErrno | data}, nil
	case specs.ActNotify:
		return action{"notify (no listener comes back)", denied, retUserNotif}, nil
	case specs.ActTrace:
		return action{"trace", traced, retTrace | data}, nil
	case specs.ActLog:
		return action{"log", logged, retLog}, nil
	case specs.ActAllow:
		return action{"allowed", allowed, retAllow}, nil
	}
	return action{}, fmt.Errorf("action %q is unknown", a)
}
