package verify

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/rights"
)

// granted is what the spec gives the container's process in the moment in which runc has started it, and
// what it can reach from there. A checkpoint may have been taken at any later time.
type granted struct {
	uid, gid    uint32
	groups      []uint32
	noNewPrivs  bool
	bounding    capabilities
	inheritable capabilities
	// permitted are the capabilities that the process has at the start. Only they excuse something else
	// than a capability: that it is reachable through some program in the
	// image does not mean that the pod's security context speaks of it.
	permitted capabilities
	// reachable are those that it can have permitted in the course of its life.
	reachable capabilities
}

// grantedBy computes it. runc gives itself the sets of the spec when it already is the
// spec's user (libcontainer, finalizeNamespace), then executes the program; the kernel makes new
// sets of the old ones in that moment (capabilities(7), "Transformation of capabilities
// during execve()" and "Capabilities and execution of programs by root").
func grantedBy(p *specs.Process, own inherited) granted {
	g := granted{uid: p.User.UID, gid: p.User.GID, groups: p.User.AdditionalGids, noNewPrivs: p.NoNewPrivileges}
	// Without sets in the spec runc changes nothing: they are those of this process.
	before, ambient := own.permitted, capabilities(0)
	g.bounding, g.inheritable = own.bounding, own.inheritable
	if c := p.Capabilities; c != nil {
		before, g.bounding, g.inheritable = named(c.Permitted), named(c.Bounding), named(c.Inheritable)
		// runc goes on when the kernel refuses to raise one.
		ambient = named(c.Ambient) & before & g.inheritable
	}
	g.permitted = ambient
	if g.uid == 0 {
		g.permitted = g.bounding | g.inheritable
		if g.noNewPrivs {
			g.permitted &= before
		}
	}
	g.reachable = g.permitted
	if !g.noNewPrivs {
		// By a program with file capabilities.
		g.reachable = g.bounding | g.inheritable
	}
	return g
}

// reachableInheritable are the capabilities that it can make inheritable (security/commoncap.c, cap_capset).
func (g granted) reachableInheritable() capabilities {
	c := g.inheritable | g.reachable
	if g.reachable.has(capSetPCap) {
		c |= g.bounding
	}
	return c
}

// holder is whose rights to files they are, or nil if they may open everything.
func (g granted) holder() *rights.Holder {
	if g.reachable.has(capDACOverride) {
		return nil
	}
	return &rights.Holder{
		UID: g.uid, GID: g.gid, Groups: g.groups, ReadSearch: g.reachable.has(capDACReadSearch), AnyUser: g.permitted.has(capSetUID),
		AnyOwner: g.reachable&(capFOwner|capChown) != 0,
	}
}

// granted returns what the spec gives. Both come from the same moment.
func (v *verifier) granted() (granted, inherited, error) {
	own, err := inherit()
	if err != nil {
		return granted{}, own, err
	}
	return grantedBy(v.spec.Process, own), own, nil
}
