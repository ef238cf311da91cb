package verify

import (
	"errors"
	"fmt"
	"maps"
	"os"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/netdev"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pidns"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// otherIDs are the namespaces that not every kernel has.
var otherIDs = map[specs.LinuxNamespaceType]func(*criu_core.TaskKobjIdsEntry) uint32{
	specs.TimeNamespace:   (*criu_core.TaskKobjIdsEntry).GetTimeNsId,
	specs.CgroupNamespace: (*criu_core.TaskKobjIdsEntry).GetCgroupNsId,
}

// processNamespaces checks that all processes are in the namespaces of the first one, and that
// these are where runc puts it. Whether one of them is the node's is for HostNamespaces.
func (v *verifier) processNamespaces() error {
	inv, err := v.images.Inventory()
	if err != nil {
		return err
	}
	first, err := v.images.IDs(v.processes[0].GetPid())
	if err != nil {
		return err
	}
	for _, p := range v.processes {
		ids, err := v.images.IDs(p.GetPid())
		if errors.Is(err, os.ErrNotExist) && p.Dead() {
			continue // CRIU makes it where its parent is
		}
		if err != nil {
			return err
		}
		if err := v.sameNamespaces(p, first, ids); err != nil {
			return err
		}
		// A core image had them before they had one of their own. CRIU reads only that they are there.
		if ids2 := p.Core.GetIds(); ids2 != nil && !proto.Equal(ids2, ids) {
			return malformed(criu.CoreName(p.GetPid()), "its IDs are not those of ids-%d.img", p.GetPid())
		}
	}
	if first.GetUserNsId() != inv.GetRootIds().GetUserNsId() {
		v.refuse(Finding{
			Check: "namespaces", Object: processName(v.processes[0]), Field: "user namespace", Found: "one of its own", Allowed: "the node's",
			Remedy: "checkpoint a pod with hostUsers: true",
		})
	}
	if err := v.external(inv, first); err != nil {
		return err
	}
	if err := v.clocks(inv, first); err != nil {
		return err
	}
	if err := v.tree(); err != nil {
		return err
	}
	return v.cgroups()
}

// sameNamespaces compares a process with the first one. CRIU could nest network and mount
// namespaces; of the others it would make none (criu/pstree.c, prepare_pstree_kobj_ids).
func (v *verifier) sameNamespaces(p *criu.Process, first, ids *criu_core.TaskKobjIdsEntry) error {
	for kind, id := range criu.NamespaceIDs {
		if id(ids) == 0 {
			return malformed(fmt.Sprintf("ids-%d.img", p.GetPid()), "it has no %s namespace", kind)
		}
	}
	kinds := maps.Clone(criu.NamespaceIDs)
	maps.Copy(kinds, otherIDs)
	for kind, id := range kinds {
		if id(ids) != id(first) {
			v.refuse(Finding{
				Check: "namespaces", Object: processName(p), Field: string(kind) + " namespace",
				Found: "another one than that of the container's first process", Allowed: "the same",
			})
		}
	}
	return nil
}

// The names that runc gives to the namespaces which it hands to CRIU (runc: libcontainer/criu_linux.go, criuNsToKey).
const (
	externalNetwork = "extRootNetNS"
	externalPID     = "extRootPidNS"
)

// external checks the two namespaces that CRIU does not join: it enters them if the image says that they are
// external, by the name that runc gives them, and else makes new ones. For a new
// network namespace it would take devices, addresses and sysctls from the images (criu/net.c,
// prepare_net_ns_first_stage); of an external one it reads nothing but the name.
func (v *verifier) external(inv *inventory.InventoryEntry, ids *criu_core.TaskKobjIdsEntry) error {
	name := fmt.Sprintf("netns-%d.img", ids.GetNetNsId())
	_, exists := v.images.Size(name)
	if exists || ids.GetNetNsId() != inv.GetRootIds().GetNetNsId() {
		found := "one of its own"
		if exists {
			e, err := criu.One[*netdev.NetnsEntry](v.images, name, "NETNS")
			if err != nil {
				return err
			}
			if e.ExtKey != nil {
				found = e.GetExtKey()
				if !proto.Equal(e, &netdev.NetnsEntry{ExtKey: e.ExtKey}) {
					return malformed(name, "it has the properties of a network namespace that is not the checkpoint's")
				}
			}
		}
		if found != externalNetwork || modeOf(v.spec, specs.NetworkNamespace) != joined {
			v.refuse(Finding{
				Check: "namespaces", Object: processName(v.processes[0]), Field: "network namespace", Found: found, Allowed: "the pod's, " + externalNetwork,
				Remedy: "checkpoint a container whose network namespace is its pod's",
			})
		}
	}
	name = fmt.Sprintf("pidns-%d.img", ids.GetPidNsId())
	found, allowed := "", ""
	if modeOf(v.spec, specs.PIDNamespace) == joined {
		allowed = externalPID
	}
	if _, exists := v.images.Size(name); exists {
		e, err := criu.One[*pidns.PidnsEntry](v.images, name, "PIDNS")
		if err != nil {
			return err
		}
		found = e.GetExtKey()
	}
	if found != allowed {
		words := func(key string) string {
			if key == "" {
				return "one of its own"
			}
			return key
		}
		v.refuse(Finding{
			Check: "namespaces", Object: processName(v.processes[0]), Field: "pid namespace", Found: words(found), Allowed: words(allowed),
			Remedy: remedies[specs.PIDNamespace],
		})
	}
	return nil
}

// processName names a process in a finding.
func processName(p *criu.Process) string { return fmt.Sprintf("process %d", p.GetPid()) }
