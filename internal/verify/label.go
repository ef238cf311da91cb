package verify

import (
	"errors"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// label is an LSM label and the kind of it, if that matters.
type label struct {
	name string
	kind *inventory.Lsmtype
}

// grantedLabel returns the label that the spec's process has. If the spec says nothing, that is the one of
// this process: on a node with SELinux every process has one.
func grantedLabel(p *specs.Process, own inherited) (label, error) {
	switch {
	case p.ApparmorProfile != "" && p.SelinuxLabel != "":
		return label{}, errors.New("OCI spec of the new container: it has an AppArmor profile and an SELinux label, and CRIU can restore one of them")
	case p.ApparmorProfile != "":
		return label{confinement(p.ApparmorProfile), inventory.Lsmtype_APPARMOR.Enum()}, nil
	case p.SelinuxLabel != "":
		return label{p.SelinuxLabel, inventory.Lsmtype_SELINUX.Enum()}, nil
	}
	return label{name: own.label}, nil
}

// label gives a thread the label that the spec's process has, whatever the image says: it is what an exec in the container has. CRIU
// writes the image's into /proc/self/attr/current as the unconfined root it is, so that the kernel lets it have any;
// without one the thread keeps CRIU's, which is this process's.
//
// A label that is not one profile is refused: a program has chosen it to be confined more than its pod is, in a hat of its profile
// or under several profiles at a time, and would come back with less.
func (v *verifier) label(t thread, c *creds.CredsEntry, want label, own inherited) {
	found := confinement(c.GetLsmProfile())
	switch {
	case found != want.name && strings.Contains(found, "//&"):
		v.refuseCredential(t, "LSM label", "several profiles at a time, "+found, "one profile",
			"checkpoint a container whose processes are not confined by several AppArmor profiles")
	case found != want.name && strings.Contains(found, "//"):
		v.refuseCredential(t, "LSM label", "a hat or child profile, "+found, "a profile",
			"checkpoint a container whose processes have not changed into a hat or a child of their AppArmor profile")
	default:
		v.forceLabel(t, c, want, own)
	}
	if c.LsmSockcreate != nil {
		v.refuseCredential(t, "LSM label of new sockets", c.GetLsmSockcreate(), "none", "")
	}
	if c.ApparmorData != nil {
		// No released CRIU writes or reads it.
		v.refuseCredential(t, "AppArmor data", "some", "none", "")
	}
}

func (v *verifier) forceLabel(t thread, c *creds.CredsEntry, want label, own inherited) {
	forced := want.name
	switch {
	case want.kind == nil, forced == "" && own.label == "":
		forced = "" // it keeps CRIU's
	case forced == "":
		forced = unconfined
	}
	if c.GetLsmProfile() == forced {
		return
	}
	edited := v.edit(t.tid, t.core).ThreadCore.Creds
	edited.LsmProfile = nil
	if forced != "" {
		edited.LsmProfile = &forced
	}
}

// labelKind makes CRIU read that labels are of the spec's kind. It compares the inventory's with the node's where there is a label
// (criu/lsm.c, validate_lsm).
func (v *verifier) labelKind(want label, inv *inventory.InventoryEntry) error {
	if want.kind == nil || inv.GetLsmtype() == *want.kind {
		return nil
	}
	edited := proto.Clone(inv).(*inventory.InventoryEntry)
	edited.Lsmtype = want.kind
	return v.replace("inventory.img", "INVENTORY", edited)
}
