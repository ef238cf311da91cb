package verify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// The fields of CRIU's creds_entry that go-criu does not know (CRIU's images/creds.proto).
const (
	fieldNoNewPrivs = 18
	fieldCapAmb     = 19
)

// nobody is what setresuid(2) takes for "leave it": CRIU's own root.
const nobody = 1<<32 - 1

// freeSecurebits are those that a process sets without any capability: SECBIT_KEEP_CAPS, of which only a process with
// capabilities has something, and, with their locks, those that only the program itself
// honours (SECURE_ALL_UNPRIVILEGED, Linux 6.14).
const freeSecurebits = 0x10 | 0xf00

// credentials compares users, groups, capabilities, securebits, no_new_privs and LSM labels of every
// thread with what a process that the spec starts could have. CRIU restores them as they are in the
// image (pie/restorer.c, restore_creds), and keeps its own, root's, where the image says nothing.
//
// A program that was running with another user than the pod's by a set-user-ID bit is refused on
// purpose: runAsUser is what people see and what admission has judged.
func (v *verifier) credentials() error {
	g, own, err := v.granted()
	if err != nil {
		return err
	}
	inv, err := v.images.Inventory()
	if err != nil {
		return err
	}
	label, err := grantedLabel(v.spec.Process, own)
	if err != nil {
		return err
	}
	for _, p := range v.processes {
		switch state := p.Core.GetTc().GetTaskState(); state {
		case criu.TaskAlive, criu.TaskDead, criu.TaskStopped:
		default:
			return thread{pid: p.GetPid(), tid: p.GetPid()}.malformed("a process cannot be in state %d", state)
		}
		for _, t := range threads(p) {
			c := t.core.GetThreadCore().GetCreds()
			if c == nil {
				// CRIU would read an image of an old form, for the first thread only.
				return t.malformed("it has no credentials")
			}
			v.users(t, c, g)
			v.groups(t, c, g, own)
			if err := v.capabilities(t, c, g); err != nil {
				return err
			}
			if err := v.noNewPrivs(t, c, g); err != nil {
				return err
			}
			v.label(t, c, label, own)
		}
	}
	return v.labelKind(label, inv)
}

func (v *verifier) refuseCredential(t thread, field, found, allowed, remedy string) {
	v.refuse(Finding{Check: "credentials", Object: t.String(), Field: field, Found: found, Allowed: allowed, Remedy: remedy})
}

func (v *verifier) users(t thread, c *creds.CredsEntry, g granted) {
	for _, id := range []struct {
		field string
		value uint32
	}{{"uid", c.GetUid()}, {"euid", c.GetEuid()}, {"suid", c.GetSuid()}, {"fsuid", c.GetFsuid()}} {
		switch {
		case id.value == g.uid && id.value != nobody:
		case g.permitted.has(capSetUID) && id.value != nobody:
		default:
			v.refuseCredential(t, id.field, fmt.Sprint(id.value), fmt.Sprint(g.uid), "set runAsUser as in the pod that was checkpointed")
		}
	}
}

func (v *verifier) groups(t thread, c *creds.CredsEntry, g granted, own inherited) {
	const remedy = "set runAsGroup, supplementalGroups and fsGroup as in the pod that was checkpointed"
	allowed := append([]uint32{g.gid}, g.groups...)
	free := g.permitted.has(capSetGID)
	for _, id := range []struct {
		field string
		value uint32
	}{{"gid", c.GetGid()}, {"egid", c.GetEgid()}, {"sgid", c.GetSgid()}, {"fsgid", c.GetFsgid()}} {
		if id.value == nobody || !free && !slices.Contains(allowed, id.value) {
			v.refuseCredential(t, id.field, fmt.Sprint(id.value), list(allowed), remedy)
		}
	}
	var more []uint32
	for _, gid := range c.GetGroups() {
		if !free && !slices.Contains(allowed, gid) {
			more = append(more, gid)
		}
	}
	if len(more) > 0 {
		v.refuseCredential(t, "groups", list(more), list(allowed), remedy)
	}
	// Without any, CRIU leaves its own (cr-restore.c, rst_prep_creds_args). The group that the thread has
	// anyway gives it nothing.
	if len(c.GetGroups()) == 0 && len(own.groups) > 0 {
		v.edit(t.tid, t.core).ThreadCore.Creds.Groups = []uint32{c.GetGid()}
	}
}

// capabilities compares the five sets and the bits that change their meaning. A set of the image may be
// any part of what is reachable: the process may have dropped the others.
func (v *verifier) capabilities(t thread, c *creds.CredsEntry, g granted) error {
	const remedy = "set capabilities, privileged and allowPrivilegeEscalation as in the pod that was checkpointed"
	ambient, err := criu.Varints(c, fieldCapAmb)
	if err != nil {
		return t.malformed("%s", err)
	}
	var found [5]capabilities
	for i, w := range [][]uint32{c.GetCapInh(), c.GetCapPrm(), c.GetCapEff(), c.GetCapBnd()} {
		if found[i], err = words(w); err != nil {
			return t.malformed("%s", err)
		}
	}
	if len(ambient) > 0 { // CRIU before 4.2 did not write them
		if found[4], err = words(ambient); err != nil {
			return t.malformed("%s", err)
		}
	}
	inheritable := g.reachableInheritable()
	for i, set := range []struct {
		field   string
		allowed capabilities
	}{
		{"CapInh", inheritable}, {"CapPrm", g.reachable}, {"CapEff", g.reachable}, {"CapBnd", g.bounding}, {"CapAmb", g.reachable & inheritable},
	} {
		if more := found[i] &^ set.allowed; more != 0 {
			v.refuseCredential(t, set.field, more.String(), set.allowed.String(), remedy)
		}
	}
	if bits := c.GetSecbits() &^ freeSecurebits; bits != 0 && !g.permitted.has(capSetPCap) {
		v.refuseCredential(t, "securebits", fmt.Sprintf("%#x", c.GetSecbits()), "0", "checkpoint a process that has not changed them, or add the capability SETPCAP")
	}
	return nil
}

func (v *verifier) noNewPrivs(t thread, c *creds.CredsEntry, g granted) error {
	set, err := criu.Varints(c, fieldNoNewPrivs)
	if err != nil {
		return t.malformed("%s", err)
	}
	if len(set) > 1 || len(set) == 1 && set[0] > 1 {
		return t.malformed("no_new_privs is neither 0 nor 1")
	}
	if g.noNewPrivs && (len(set) == 0 || set[0] == 0) {
		v.refuseCredential(t, "no_new_privs", "0", "1",
			"take the checkpoint in a pod with allowPrivilegeEscalation: false, or set it to true here")
	}
	return nil
}

// list shows the first of some numbers.
func list(ids []uint32) string {
	var b strings.Builder
	for i, id := range ids {
		if i > 0 {
			b.WriteString(", ")
		}
		if b.Len() > maxText {
			break
		}
		fmt.Fprint(&b, id)
	}
	return b.String()
}
