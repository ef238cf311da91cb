package criu

import (
	"errors"
	"fmt"
	"os"
	"slices"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// namespaceIDs are the fields with the IDs of namespaces, 0 if absent. An ID means something
// only beside the others of the same checkpoint.
var namespaceIDs = map[specs.LinuxNamespaceType]func(*criu_core.TaskKobjIdsEntry) uint32{
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
func SharedNamespaces(dir string) ([]specs.LinuxNamespaceType, error) {
	criu, err := criuIDs(dir)
	if err != nil {
		return nil, err
	}
	all, err := processes(dir)
	if err != nil {
		return nil, err
	}
	var shared []specs.LinuxNamespaceType
	for _, p := range all {
		ids, err := readIDs(dir, p.GetPid())
		if errors.Is(err, os.ErrNotExist) && p.GetPpid() != 0 {
			continue // a zombie: CRIU makes it where its parent is
		}
		if err != nil {
			return nil, err
		}
		for kind, id := range namespaceIDs {
			// Of one that is not named CRIU restores none.
			if n := id(ids); n == 0 || n == id(criu) {
				shared = append(shared, kind)
			}
		}
	}
	slices.Sort(shared)
	return slices.Compact(shared), nil
}

// criuIDs returns the IDs of the CRIU that dumped.
func criuIDs(dir string) (*criu_core.TaskKobjIdsEntry, error) {
	var inv *inventory.InventoryEntry
	err := readImage(dir, "inventory.img", "INVENTORY", func(entry []byte) error {
		if inv != nil {
			return nil
		}
		inv = &inventory.InventoryEntry{}
		if err := proto.Unmarshal(entry, inv); err != nil {
			return err
		}
		for kind, id := range namespaceIDs {
			if id(inv.GetRootIds()) == 0 {
				return fmt.Errorf("it does not say which %s namespace CRIU was in", kind)
			}
		}
		return nil
	})
	if err == nil && inv == nil {
		err = fmt.Errorf("CRIU image inventory.img is empty: %w", errdefs.ErrInvalidArgument)
	}
	return inv.GetRootIds(), err
}

// readIDs returns the IDs of a process.
func readIDs(dir string, pid uint32) (*criu_core.TaskKobjIdsEntry, error) {
	name := fmt.Sprintf("ids-%d.img", pid)
	var ids *criu_core.TaskKobjIdsEntry
	err := readImage(dir, name, "IDS", func(entry []byte) error {
		if ids != nil {
			return nil // CRIU reads the first
		}
		ids = &criu_core.TaskKobjIdsEntry{}
		return proto.Unmarshal(entry, ids)
	})
	if err == nil && ids == nil {
		err = fmt.Errorf("CRIU image %s is empty: %w", name, errdefs.ErrInvalidArgument)
	}
	return ids, err
}

// processes returns the processes of a checkpoint, with their PIDs in its PID
// namespace. The parent of the first process is 0.
func processes(dir string) ([]*pstree.PstreeEntry, error) {
	var all []*pstree.PstreeEntry
	err := readImage(dir, "pstree.img", "PSTREE", func(entry []byte) error {
		p := &pstree.PstreeEntry{}
		all = append(all, p)
		return proto.Unmarshal(entry, p)
	})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("CRIU image pstree.img has no process: %w", errdefs.ErrInvalidArgument)
	}
	return all, err
}
