package criu

import (
	"errors"
	"fmt"
	"os"
	"slices"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// NamespaceIDs are the fields with the IDs of namespaces, 0 if absent. An ID means something
// only beside the others of the same checkpoint.
var NamespaceIDs = map[specs.LinuxNamespaceType]func(*criu_core.TaskKobjIdsEntry) uint32{
	specs.PIDNamespace:     (*criu_core.TaskKobjIdsEntry).GetPidNsId,
	specs.NetworkNamespace: (*criu_core.TaskKobjIdsEntry).GetNetNsId,
	specs.IPCNamespace:     (*criu_core.TaskKobjIdsEntry).GetIpcNsId,
	specs.UTSNamespace:     (*criu_core.TaskKobjIdsEntry).GetUtsNsId,
	specs.MountNamespace:   (*criu_core.TaskKobjIdsEntry).GetMntNsId,
	specs.UserNamespace:    (*criu_core.TaskKobjIdsEntry).GetUserNsId,
}

// SharedNamespaces returns the kinds of namespaces, sorted, that at least one process of the
// checkpoint had in common with the CRIU that dumped it. For these CRIU makes
// none on a restore: the process gets the one in which CRIU runs, the node's. This is what CRIU
// goes by (criu/pstree.c, prepare_pstree_kobj_ids), whatever spec.dump says.
//
// Errors are of class errdefs.ErrInvalidArgument for images from which it cannot be told.
func (s *Images) SharedNamespaces() ([]specs.LinuxNamespaceType, error) {
	const name = "pstree.img"
	inv, err := s.Inventory()
	if err != nil {
		return nil, err
	}
	for kind, id := range NamespaceIDs {
		if id(inv.GetRootIds()) == 0 {
			return nil, invalidImage("inventory.img", fmt.Sprintf("it does not say which %s namespace CRIU was in", kind))
		}
	}
	all, err := Entries[*pstree.PstreeEntry](s, name, "PSTREE")
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, invalidImage(name, "it has no process")
	}
	var shared []specs.LinuxNamespaceType
	for _, p := range all {
		ids, err := s.IDs(p.GetPid())
		if errors.Is(err, os.ErrNotExist) && p.GetPpid() != 0 {
			continue // a zombie: CRIU makes it where its parent is
		}
		if err != nil {
			return nil, err
		}
		for kind, id := range NamespaceIDs {
			// Of one that is not named CRIU restores none.
			if n := id(ids); n == 0 || n == id(inv.GetRootIds()) {
				shared = append(shared, kind)
			}
		}
	}
	slices.Sort(shared)
	return slices.Compact(shared), nil
}
