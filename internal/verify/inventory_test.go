package verify

import (
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

func TestInventory(t *testing.T) {
	with := func(j judgement, f func(*inventory.InventoryEntry)) judgement {
		j.change = func(files map[string]string, _ *specs.Spec) { change(files, "inventory.img", "INVENTORY", f) }
		return j
	}
	later := func(field protowire.Number, value string) func(*inventory.InventoryEntry) {
		return func(e *inventory.InventoryEntry) { e.ProtoReflect().SetUnknown(criutest.LaterBytes(nil, field, value)) }
	}
	judge(t, single, map[string]judgement{
		"version 1":            with(judgement{malformed: "version 1"}, func(e *inventory.InventoryEntry) { e.ImgVersion = proto.Uint32(1) }),
		"version 3":            with(judgement{malformed: "version 3"}, func(e *inventory.InventoryEntry) { e.ImgVersion = proto.Uint32(3) }),
		"descriptors by PID":   with(judgement{malformed: "old version"}, func(e *inventory.InventoryEntry) { e.FdinfoPerId = proto.Bool(false) }),
		"namespaces by PID":    with(judgement{malformed: "old version"}, func(e *inventory.InventoryEntry) { e.NsPerId = nil }),
		"no IDs":               with(judgement{malformed: "namespace CRIU was in"}, func(e *inventory.InventoryEntry) { e.RootIds = nil }),
		"no user namespace":    with(judgement{malformed: "user namespace CRIU was in"}, func(e *inventory.InventoryEntry) { e.RootIds.UserNsId = nil }),
		"cgroup 0":             with(judgement{malformed: "number 0"}, func(e *inventory.InventoryEntry) { e.RootCgSet = proto.Uint32(0) }),
		"unknown network lock": with(judgement{malformed: "network lock method 3"}, func(e *inventory.InventoryEntry) { e.NetworkLockMethod = proto.Uint32(3) }),
		"nftables":             with(judgement{}, func(e *inventory.InventoryEntry) { e.NetworkLockMethod = proto.Uint32(1) }),
		"unknown LSM":          with(judgement{malformed: "inventory.img"}, func(e *inventory.InventoryEntry) { e.Lsmtype = inventory.Lsmtype(7).Enum() }),
		// In CRIU: nft "delete table inet CRIU-x;flush ruleset".
		"command for nft":          with(judgement{malformed: "no UUID"}, later(inventoryRunID, "x;flush ruleset")),
		"command after the UUID":   with(judgement{malformed: "no UUID"}, later(inventoryRunID, criutest.RunID+"\n;flush ruleset")),
		"empty run ID":             with(judgement{malformed: "no UUID"}, later(inventoryRunID, "")),
		"run ID":                   with(judgement{}, later(inventoryRunID, criutest.RunID)),
		"plugins":                  with(judgement{refused: "plugins of CRIU"}, later(inventoryPlugins, string(criutest.LaterBytes(nil, 12, "cuda_plugin")))),
		"not a message of plugins": with(judgement{malformed: "inventory.img"}, func(e *inventory.InventoryEntry) { criutest.Later(e, inventoryPlugins, 1) }),
		"before plugins":           with(judgement{}, func(e *inventory.InventoryEntry) { e.ProtoReflect().SetUnknown(nil) }),
		"uprobes":                  with(judgement{refused: "allow_uprobes"}, func(e *inventory.InventoryEntry) { criutest.Later(e, inventoryUprobes, 1) }),
		"no uprobes":               with(judgement{}, func(e *inventory.InventoryEntry) { criutest.Later(e, inventoryUprobes, 0) }),
		"not compressed":           with(judgement{}, func(e *inventory.InventoryEntry) { criutest.Later(e, inventoryCompress, 0) }),
		"written by a newer CRIU":  with(judgement{malformed: "field 17"}, func(e *inventory.InventoryEntry) { criutest.Later(e, 17, 1) }),
	})
}

// Pages that CRIU 4.3 has compressed are refused by their name, and not as damaged, whichever version of images they make.
func TestInventoryCompressed(t *testing.T) {
	for _, version := range []uint32{2, 3} {
		files := single()
		change(files, "inventory.img", "INVENTORY", func(e *inventory.InventoryEntry) {
			e.ImgVersion = proto.Uint32(version)
			criutest.Later(e, inventoryCompress, 1)
		})
		if _, err := layout(t, files, strictPod(t)); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "compressed by CRIU") {
			t.Errorf("version %d: got %v", version, err)
		}
	}
}
