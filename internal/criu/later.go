package criu

import (
	"fmt"
	"sync"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// laterField is a field that go-criu does not know: its line in CRIU's images/*.proto.
type laterField struct {
	number protowire.Number
	name   string
	label  descriptorpb.FieldDescriptorProto_Label
	kind   descriptorpb.FieldDescriptorProto_Type
	of     string // the message, if it is one; with a dot before it, one of go-criu's
}

const (
	optional = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
	required = descriptorpb.FieldDescriptorProto_LABEL_REQUIRED
	repeated = descriptorpb.FieldDescriptorProto_LABEL_REPEATED

	uint32s  = descriptorpb.FieldDescriptorProto_TYPE_UINT32
	uint64s  = descriptorpb.FieldDescriptorProto_TYPE_UINT64
	int32s   = descriptorpb.FieldDescriptorProto_TYPE_INT32
	bools    = descriptorpb.FieldDescriptorProto_TYPE_BOOL
	texts    = descriptorpb.FieldDescriptorProto_TYPE_STRING
	messages = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
)

// later are the fields that CRIU 4.2 and 4.3 write and go-criu v7.2 does not know, by message, and the messages that
// are their values. What is read of them is read with [Varints] and [Messages]. Any other field that is not known is
// refused: what it would grant is not known either. What becomes of each is in internal/verify/fields.
var later = map[string][]laterField{
	"creds_entry": {{18, "no_new_privs", optional, uint32s, ""}, {19, "cap_amb", repeated, uint32s, ""}},
	"inventory_entry": {
		{12, "plugins_entry", optional, messages, "plugins_entry"}, {13, "dump_criu_run_id", optional, texts, ""},
		{14, "allow_uprobes", optional, bools, ""},
		{15, "compress", optional, uint32s, ""}, {16, "compress_block_size", optional, uint32s, ""},
	},
	"plugins_entry":        {{12, "plugins", repeated, texts, ""}},
	"task_core_entry":      {{22, "membarrier_registration_mask", optional, uint32s, ""}},
	"user_x86_xsave_entry": {{9, "cet", optional, messages, "user_x86_cet_entry"}},
	"user_x86_cet_entry":   {{1, "cet", required, uint64s, ""}, {2, "ssp", required, uint64s, ""}},
	"thread_core_entry":    {{17, "timerslack_ns", optional, uint64s, ""}},
	"thread_info_aarch64": {
		{5, "pac_keys", optional, messages, "pac_keys"}, {6, "gcs", optional, messages, "user_aarch64_gcs_entry"},
	},
	"user_aarch64_gcs_entry": {{1, "gcspr_el0", required, uint64s, ""}, {2, "features_enabled", required, uint64s, ""}},
	"pac_keys": {
		{6, "pac_address_keys", optional, messages, "pac_address_keys"},
		{7, "pac_generic_keys", optional, messages, "pac_generic_keys"},
	},
	"pac_address_keys": {
		{1, "apiakey_lo", required, uint64s, ""}, {2, "apiakey_hi", required, uint64s, ""},
		{3, "apibkey_lo", required, uint64s, ""}, {4, "apibkey_hi", required, uint64s, ""},
		{5, "apdakey_lo", required, uint64s, ""}, {6, "apdakey_hi", required, uint64s, ""},
		{7, "apdbkey_lo", required, uint64s, ""}, {8, "apdbkey_hi", required, uint64s, ""},
		{9, "pac_enabled_key", required, uint64s, ""},
	},
	"pac_generic_keys":  {{1, "apgakey_lo", required, uint64s, ""}, {2, "apgakey_hi", required, uint64s, ""}},
	"memfd_inode_entry": {{9, "mode", optional, uint32s, ""}},
	"pagemap_entry":     {{5, "nr_pages", optional, uint64s, ""}, {6, "blocks", optional, messages, "pagemap_blocks"}},
	"pagemap_blocks": {
		{1, "block_sizes", repeated, uint32s, ""}, {2, "total_payload_size", required, uint64s, ""},
		{3, "pages_per_block", required, uint32s, ""},
	},
	"inet_sk_entry":   {{20, "tcp_opts", optional, messages, "tcp_opts_entry"}, {21, "uid", optional, uint32s, ""}},
	"pipe_entry":      {{5, "uid", optional, uint32s, ""}, {6, "gid", optional, uint32s, ""}},
	"fifo_entry":      {{4, "wait_writer", optional, bools, ""}},
	"sk_packet_entry": {{128, "ucred", optional, messages, "sk_ucred_entry"}},
	"sk_ucred_entry": {{1, "uid", required, uint32s, ""}, {2, "gid", required, uint32s, ""},
		{3, "pid", required, uint32s, ""}},
	"tcp_opts_entry": {
		{1, "cork", optional, bools, ""}, {2, "nodelay", optional, bools, ""}, {3, "keepcnt", optional, uint32s, ""},
		{4, "keepidle", optional, uint32s, ""}, {5, "keepintvl", optional, uint32s, ""},
	},
	"ip_opts_entry": {{6, "tos", optional, uint32s, ""}, {7, "ttl", optional, uint32s, ""}},
	"file_entry":    {{22, "pidfd", optional, messages, "pidfd_entry"}},
	"pidfd_entry": {
		{1, "id", required, uint32s, ""}, {2, "ino", required, uint32s, ""}, {3, "flags", required, uint32s, ""},
		{4, "nspid", required, int32s, ""}, {5, "fown", required, messages, ".fown_entry"},
	},
}

// laterValues are the fields of go-criu's with an enumeration of which it does not know all values: the types of
// files. CRIU's enumerations are refused beyond what go-criu knows, but for these.
var laterValues = map[protoreflect.FullName]bool{"file_entry.type": true, "fdinfo_entry.type": true}

// laterMessages are descriptors of them. Of a message that go-criu knows there are only the later fields.
var laterMessages = sync.OnceValue(func() protoreflect.MessageDescriptors {
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("later.proto"), Package: proto.String("later"), Syntax: proto.String("proto2"),
		Dependency: []string{fown.File_fown_proto.Path()},
	}
	for name, fields := range later {
		m := &descriptorpb.DescriptorProto{Name: proto.String(name)}
		for _, f := range fields {
			d := &descriptorpb.FieldDescriptorProto{
				Name: proto.String(f.name), Number: proto.Int32(int32(f.number)), Label: f.label.Enum(), Type: f.kind.Enum(),
			}
			switch {
			case f.of != "" && f.of[0] != '.':
				d.TypeName = proto.String(".later." + f.of)
			case f.of != "":
				d.TypeName = proto.String(f.of)
			}
			m.Field = append(m.Field, d)
		}
		file.MessageType = append(file.MessageType, m)
	}
	d, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		panic(fmt.Sprintf("table of later fields: %v", err)) // of constants only: a test would see it
	}
	return d.Messages()
})

// LaterFields returns the fields of a message that CRIU writes and go-criu does not know, or nil.
func LaterFields(message protoreflect.Name) protoreflect.FieldDescriptors {
	if m := laterMessages().ByName(message); m != nil {
		return m.Fields()
	}
	return nil
}

// laterFieldOf returns one of them, or nil.
func laterFieldOf(message protoreflect.Name, n protowire.Number) protoreflect.FieldDescriptor {
	if fields := LaterFields(message); fields != nil {
		return fields.ByNumber(n)
	}
	return nil
}
