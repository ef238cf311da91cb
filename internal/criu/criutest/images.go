// Package criutest makes CRIU images for tests that need no CRIU.
package criutest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/magic"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// Processes are the processes of a checkpoint: by PID, the namespaces that each had in common
// with the CRIU that dumped it. The process with the lowest PID is the parent of the others.
type Processes map[uint32][]specs.LinuxNamespaceType

// Images returns the images, by name, that say which processes there are and
// in which namespaces they were.
func Images(processes Processes) map[string]string {
	images := map[string]string{
		"inventory.img": Image("INVENTORY", &inventory.InventoryEntry{ImgVersion: proto.Uint32(2), RootIds: IDs(1)}),
	}
	var tree []proto.Message
	pids := slices.Sorted(maps.Keys(processes))
	for i, pid := range pids {
		var parent uint32
		if i > 0 {
			parent = pids[0]
		}
		tree = append(tree, &pstree.PstreeEntry{Pid: &pid, Ppid: &parent, Pgid: &pid, Sid: &pid})
		images[fmt.Sprintf("ids-%d.img", pid)] = Image("IDS", IDs(2, processes[pid]...))
	}
	images["pstree.img"] = Image("PSTREE", tree...)
	return images
}

// IDs returns the IDs of a process: own, and 1 for the namespaces that it shares with CRIU.
func IDs(own uint32, shared ...specs.LinuxNamespaceType) *criu_core.TaskKobjIdsEntry {
	id := func(kind specs.LinuxNamespaceType) *uint32 {
		if slices.Contains(shared, kind) {
			return proto.Uint32(1)
		}
		return &own
	}
	return &criu_core.TaskKobjIdsEntry{
		VmId: &own, FilesId: &own, FsId: &own, SighandId: &own,
		PidNsId: id(specs.PIDNamespace), NetNsId: id(specs.NetworkNamespace), IpcNsId: id(specs.IPCNamespace),
		UtsNsId: id(specs.UTSNamespace), MntNsId: id(specs.MountNamespace), UserNsId: id(specs.UserNamespace),
	}
}

// Image returns an image. An entry without a required field panics.
func Image(kind string, entries ...proto.Message) string {
	numbers := magic.LoadMagic().ByName
	var out []byte
	if kind != "INVENTORY" {
		out = binary.LittleEndian.AppendUint32(out, uint32(numbers["IMG_COMMON"]))
	}
	out = binary.LittleEndian.AppendUint32(out, uint32(numbers[kind]))
	for _, entry := range entries {
		payload, err := proto.Marshal(entry)
		if err != nil {
			panic(err)
		}
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(payload))), payload...)
	}
	return string(out)
}
