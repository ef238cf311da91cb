package verify

import (
	"math"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cgroup"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
)

const (
	cgroupImage    = "cgroup.img"
	inventoryImage = "inventory.img"
)

// standIn is the path of the container's cgroup in the image that CRIU reads. CRIU puts there what runc gives as the
// root of cgroups, which is the cgroup that runc has put CRIU into (runc: libcontainer/criu_linux.go, criuApplyCgroups;
// CRIU: criu/cgroup.c, rewrite_cgsets). Were nothing put there, the restore would fail for want of such a cgroup.
const standIn = "the-cgroup-of-the-container"

// cgroups makes CRIU read of cgroups what the spec says, and nothing that the checkpoint does. All processes
// begin in the pod's cgroup, because that is where CRIU is itself.
//
// Without a cgroup namespace in the spec the image is empty: with manage-cgroups=ignore CRIU makes no cgroup and sets no
// property, but would still move single threads, and open files to do so whose paths come from the
// image (criu/cgroup.c, cgroupd). With one, the image has one cgroup, that of all processes, at which their namespace
// begins: CRIU's first process unshares it, before it forks and before it mounts anything (prepare_cgns). The others
// are where they are made, so that CRIU moves none.
func (v *verifier) cgroups() error {
	_, exists := v.images.Size(cgroupImage)
	if modeOf(v.spec, specs.CgroupNamespace) == host {
		if !exists {
			return nil
		}
		for _, p := range v.processes {
			v.gatherThreads(p, leaderCgroup(p))
		}
		if err := v.inheritCgroup(); err != nil {
			return err
		}
		return v.replace(cgroupImage, "CGROUP")
	}
	inv, err := v.images.Inventory()
	if err != nil {
		return err
	}
	if !exists {
		return malformed(cgroupImage, "it is missing")
	}
	set := leaderCgroup(v.processes[0])
	if set == 0 || set == inv.GetRootCgSet() {
		// With CRIU's own number, or none, it would stay in CRIU's namespace (prepare_cgroup_namespace).
		set = inv.GetRootCgSet()%math.MaxUint32 + 1
	}
	for _, p := range v.processes {
		if p.Dead() {
			continue // it ends where its parent is
		}
		if leaderCgroup(p) != set {
			v.setCgroup(p, set)
		}
		v.gatherThreads(p, set)
	}
	return v.replace(cgroupImage, "CGROUP", oneCgroup(set))
}

// inheritCgroup makes the first process's cgroup that of CRIU's own, and every other process's too: CRIU 4.3 looks for the
// cgroup of one that is elsewhere, in the image that is empty, also with manage-cgroups=ignore.
func (v *verifier) inheritCgroup() error {
	inv, err := v.images.Inventory()
	if err != nil || len(v.processes) == 0 {
		return err
	}
	set := leaderCgroup(v.processes[0])
	if set == 0 {
		return nil
	}
	for _, p := range v.processes {
		if p.Dead() || leaderCgroup(p) == set || leaderCgroup(p) == 0 {
			continue
		}
		v.setCgroup(p, set)
	}
	if inv.GetRootCgSet() == set {
		return nil
	}
	inv = proto.Clone(inv).(*inventory.InventoryEntry)
	inv.RootCgSet = proto.Uint32(set)
	return v.replace(inventoryImage, "INVENTORY", inv)
}

// setCgroup gives a process the number of a cgroup.
func (v *verifier) setCgroup(p *criu.Process, set uint32) {
	core := v.edit(p.GetPid(), p.Core)
	if core.ThreadCore != nil {
		core.ThreadCore.CgSet = proto.Uint32(set)
	}
	if core.Tc != nil {
		core.Tc.CgSet = proto.Uint32(set)
	}
}

// gatherThreads leaves all threads of a process in its cgroup, by the condition of criu/cr-restore.c, sigreturn_restore.
func (v *verifier) gatherThreads(p *criu.Process, set uint32) {
	for tid, core := range p.Others {
		if t := core.GetThreadCore(); t != nil && t.CgSet != nil && t.GetCgSet() != set {
			v.edit(tid, core).ThreadCore.CgSet = nil
		}
	}
}

// leaderCgroup is the number of the cgroup of a process, as CRIU takes it (criu/cr-restore.c, fork_with_pid).
func leaderCgroup(p *criu.Process) uint32 {
	if leader := p.Core.GetThreadCore(); leader != nil && leader.CgSet != nil {
		return leader.GetCgSet()
	}
	return p.Core.GetTc().GetCgSet()
}

// oneCgroup is the image in which this number is the container's cgroup, and it the root of a namespace. The
// unified hierarchy's name is empty.
func oneCgroup(set uint32) *cgroup.CgroupEntry {
	return &cgroup.CgroupEntry{
		Sets: []*cgroup.CgSetEntry{{Id: proto.Uint32(set), Ctls: []*cgroup.CgMemberEntry{{
			Name: proto.String(""), Path: proto.String("/" + standIn), CgnsPrefix: proto.Uint32(uint32(len("/" + standIn))),
		}}}},
		Controllers: []*cgroup.CgControllerEntry{{Cnames: []string{""}, Dirs: []*cgroup.CgroupDirEntry{{DirName: proto.String(standIn)}}}},
	}
}
