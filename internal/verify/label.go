package verify

import (
	"errors"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// label is an LSM label and the kind of it, if that matters.
type label struct {
	name string
	kind *inventory.Lsmtype
	// field is what has it in a pod.
	field string
}

// grantedLabel returns the label that the spec's process has. If the spec says nothing, that is the one of
// this process: on a node with SELinux every process has one.
func grantedLabel(p *specs.Process, own inherited) (label, error) {
	switch {
	case p.ApparmorProfile != "" && p.SelinuxLabel != "":
		return label{}, errors.New("OCI spec of the new container: it has an AppArmor profile and an SELinux label, and CRIU can restore one of them")
	case p.ApparmorProfile != "":
		return label{confinement(p.ApparmorProfile), inventory.Lsmtype_APPARMOR.Enum(), "appArmorProfile"}, nil
	case p.SelinuxLabel != "":
		return label{p.SelinuxLabel, inventory.Lsmtype_SELINUX.Enum(), "seLinuxOptions"}, nil
	}
	return label{name: own.label, field: "appArmorProfile and seLinuxOptions"}, nil
}

// label compares the label of a thread. CRIU writes the image's into /proc/self/attr/current as the unconfined
// root it is, so that the kernel lets it have any; without one the thread keeps CRIU's.
//
// What the inventory says of the kind is only compared with the node's by CRIU where it
// is set (lsm.c, validate_lsm).
func (v *verifier) label(t thread, c *creds.CredsEntry, want label, kind inventory.Lsmtype) {
	remedy := "set " + want.field + " as in the pod that was checkpointed"
	show := func(name string) string {
		if name == "" {
			return "none"
		}
		return name
	}
	found := confinement(c.GetLsmProfile())
	switch {
	case found == "" && want.kind == nil:
		// It keeps the label of CRIU, which has it from this process.
	case found != want.name:
		v.refuseCredential(t, "LSM label", show(found), show(want.name), remedy)
	case found != "" && want.kind != nil && kind != *want.kind:
		v.refuseCredential(t, "LSM", kind.String(), want.kind.String(), remedy)
	}
	if c.LsmSockcreate != nil {
		v.refuseCredential(t, "LSM label of new sockets", show(c.GetLsmSockcreate()), "none", "")
	}
	if c.ApparmorData != nil {
		// No released CRIU writes or reads it.
		v.refuseCredential(t, "AppArmor data", "some", "none", "")
	}
}
