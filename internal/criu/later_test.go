package criu

import (
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// wire builds an encoded message of numbers, strings and messages.
type wire []byte

func (w wire) number(n protowire.Number, v uint64) wire {
	return protowire.AppendVarint(protowire.AppendTag(w, n, protowire.VarintType), v)
}

func (w wire) bytes(n protowire.Number, v []byte) wire {
	return protowire.AppendBytes(protowire.AppendTag(w, n, protowire.BytesType), v)
}

// TestLaterFields decodes fields that go-criu does not know as strictly as those that it knows.
func TestLaterFields(t *testing.T) {
	required := func(zero proto.Message) wire {
		b, err := proto.Marshal(filled(zero, 0))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	socket, core, cred := required(&sk_inet.InetSkEntry{}), required(&criu_core.TaskCoreEntry{}),
		required(&creds.CredsEntry{})
	file, inv := required(&fdinfo.FileEntry{}), required(&inventory.InventoryEntry{})
	owner := wire{}.number(1, 0).number(2, 0).number(3, 0).number(4, 0).number(5, 0)
	pidfd := wire{}.number(1, 7).number(2, 1).number(3, 0).number(4, 9)
	for name, c := range map[string]struct {
		message proto.Message
		entry   wire
		refused string
	}{
		"TCP options": {&sk_inet.InetSkEntry{}, socket.bytes(20, wire{}.number(1, 1).number(3, 9)), ""},
		"a later TCP option": {&sk_inet.InetSkEntry{}, socket.bytes(20, wire{}.number(1, 1).number(6, 9)),
			"field 6 of tcp_opts_entry is unknown"},
		"a TCP option twice": {&sk_inet.InetSkEntry{}, socket.bytes(20, wire{}.number(1, 1).number(1, 0)),
			"field 1 of tcp_opts_entry comes twice"},
		"a TCP option of 33 bit": {&sk_inet.InetSkEntry{}, socket.bytes(20, wire{}.number(3, 1<<32)),
			"keepcnt of tcp_opts_entry is 4294967296"},
		"TCP options, a number": {&sk_inet.InetSkEntry{}, socket.number(20, 1),
			"tcp_opts of inet_sk_entry cannot be decoded"},

		"membarrier": {&criu_core.TaskCoreEntry{}, core.number(22, 7), ""},
		"membarrier, a string": {&criu_core.TaskCoreEntry{}, core.bytes(22, []byte{7}),
			"membarrier_registration_mask of task_core_entry cannot be decoded"},
		"after membarrier": {&criu_core.TaskCoreEntry{}, core.number(23, 7), "field 23 of task_core_entry is unknown"},

		"an ambient set": {&creds.CredsEntry{}, cred.number(18, 1).number(19, 0).number(19, 0), ""},
		"an ambient set of 33 bits": {&creds.CredsEntry{}, cred.number(19, 1<<32).number(19, 0),
			"cap_amb of creds_entry is 4294967296"},
		"an ambient set, packed": {&creds.CredsEntry{}, cred.bytes(19, []byte{0, 0}),
			"cap_amb of creds_entry cannot be decoded"},
		"no_new_privs twice": {&creds.CredsEntry{}, cred.number(18, 1).number(18, 1),
			"field 18 of creds_entry comes twice"},
		"no_new_privs after its kind": {&creds.CredsEntry{}, cred.number(19, 1).number(18, 1), "out of order"},

		"no plugins": {&inventory.InventoryEntry{}, inv.bytes(12, nil).bytes(13, []byte("id")).number(14, 0), ""},
		"plugins, another one": {&inventory.InventoryEntry{}, inv.bytes(12, wire{}.number(1, 1)),
			"field 1 of plugins_entry is unknown"},
		"a run ID with a NUL": {&inventory.InventoryEntry{}, inv.bytes(13, []byte("a\x00b")), "has a NUL"},
		"uprobes 2":           {&inventory.InventoryEntry{}, inv.number(14, 2), "allow_uprobes of inventory_entry is 2"},

		"a pidfd":               {&fdinfo.FileEntry{}, file.bytes(22, pidfd.bytes(5, owner)), ""},
		"a pidfd without owner": {&fdinfo.FileEntry{}, file.bytes(22, pidfd), "pidfd_entry lacks 1 of its fields"},
		"a pidfd, half an owner": {&fdinfo.FileEntry{}, file.bytes(22, pidfd.bytes(5, owner[:2])),
			"fown_entry lacks 4 of its fields"},
		"a later type of a file":  {&fdinfo.FileEntry{}, wire{}.number(1, 20).number(2, 1), ""},
		"a type beyond 31 bits":   {&fdinfo.FileEntry{}, wire{}.number(1, 1<<31).number(2, 1), "type of file_entry"},
		"a field beyond the last": {&fdinfo.FileEntry{}, file.bytes(23, nil), "field 23 of file_entry is unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Decode(c.entry, c.message)
			if c.refused == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("got %v, want an error that says %q", err, c.refused)
			}
		})
	}
}
