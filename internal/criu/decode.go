package criu

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// later are the fields that CRIU 4.2 writes and go-criu v7.2 does not know, by message
// (CRIU's images/*.proto), and the types of files among them, whose numbers go-criu's
// enumeration lacks. They are read with [Varints] and [Messages]. Any other field that is
// not known is refused: what it would grant is not known either.
var later = map[protoreflect.Name][]protowire.Number{
	"creds_entry":          {18, 19},     // no_new_privs, cap_amb
	"inventory_entry":      {12, 13, 14}, // plugins_entry, dump_criu_run_id, allow_uprobes
	"task_core_entry":      {22},         // membarrier_registration_mask
	"user_x86_xsave_entry": {9},          // cet
	"thread_info_aarch64":  {5},          // pac_keys
	"memfd_inode_entry":    {9},          // mode
	"pagemap_entry":        {5},          // nr_pages, 64 bits wide
	"inet_sk_entry":        {20},         // tcp_opts
	"ip_opts_entry":        {6, 7},       // tos, ttl
	"file_entry":           {1, 22},      // type, pidfd
	"fdinfo_entry":         {3},          // type
}

// repeated is the one of these fields that may come more than once.
const repeatedMessage, repeatedField = "creds_entry", 19

// Decode decodes an entry strictly: it has to be in the one form in which CRIU writes it,
// so that CRIU, which has another decoder, cannot read it differently. Every field
// is known here or to the list of later ones, and none comes twice.
func Decode(entry []byte, m proto.Message) error {
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(entry, m); err != nil {
		return errors.New("it cannot be decoded")
	}
	if proto.Size(m) != len(entry) {
		return errors.New("an entry is not written as CRIU writes it: a field comes twice, or is longer than it has to be")
	}
	return known(m.ProtoReflect())
}

// known refuses fields that this package cannot judge, and missing ones, at any depth.
func known(m protoreflect.Message) error {
	desc := m.Descriptor()
	var extra []protowire.Number
	for b := m.GetUnknown(); len(b) > 0; {
		n, _, size := protowire.ConsumeField(b)
		if size < 0 {
			return errors.New("it cannot be decoded")
		}
		if !slices.Contains(later[desc.Name()], n) {
			return fmt.Errorf("field %d of %s is unknown: a newer CRIU wrote it", n, desc.Name())
		}
		if slices.Contains(extra, n) && (desc.Name() != repeatedMessage || n != repeatedField) {
			return fmt.Errorf("field %d of %s comes twice", n, desc.Name())
		}
		extra = append(extra, n)
		b = b[size:]
	}
	for i := range desc.RequiredNumbers().Len() {
		n := desc.RequiredNumbers().Get(i)
		if fd := desc.Fields().ByNumber(n); !m.Has(fd) && !slices.Contains(extra, n) {
			return fmt.Errorf("%s has no %s", desc.Name(), fd.Name())
		}
	}
	var err error
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				if err = known(v.List().Get(i).Message()); err != nil {
					return false
				}
			}
		default:
			err = known(v.Message())
		}
		return err == nil
	})
	return err
}

// Varints returns the numbers of a field that go-criu does not know, in their order, packed or not.
func Varints(m proto.Message, field protowire.Number) ([]uint64, error) {
	var out []uint64
	for b := []byte(m.ProtoReflect().GetUnknown()); len(b) > 0; {
		n, kind, size := protowire.ConsumeField(b)
		if size < 0 {
			return nil, errors.New("it cannot be decoded")
		}
		if n == field {
			_, _, tag := protowire.ConsumeTag(b)
			switch kind {
			case protowire.VarintType:
				v, _ := protowire.ConsumeVarint(b[tag:])
				out = append(out, v)
			case protowire.BytesType:
				packed, _ := protowire.ConsumeBytes(b[tag:])
				for len(packed) > 0 {
					v, used := protowire.ConsumeVarint(packed)
					if used < 0 {
						return nil, fmt.Errorf("field %d of %s cannot be decoded", field, m.ProtoReflect().Descriptor().Name())
					}
					out = append(out, v)
					packed = packed[used:]
				}
			default:
				return nil, fmt.Errorf("field %d of %s cannot be decoded", field, m.ProtoReflect().Descriptor().Name())
			}
		}
		b = b[size:]
	}
	return out, nil
}

// Messages returns the encoded values of a field that go-criu does not know: strings or messages.
func Messages(m proto.Message, field protowire.Number) ([][]byte, error) {
	var out [][]byte
	for b := []byte(m.ProtoReflect().GetUnknown()); len(b) > 0; {
		n, kind, size := protowire.ConsumeField(b)
		if size < 0 {
			return nil, errors.New("it cannot be decoded")
		}
		if n == field {
			if kind != protowire.BytesType {
				return nil, fmt.Errorf("field %d of %s cannot be decoded", field, m.ProtoReflect().Descriptor().Name())
			}
			_, _, tag := protowire.ConsumeTag(b)
			v, _ := protowire.ConsumeBytes(b[tag:])
			out = append(out, v)
		}
		b = b[size:]
	}
	return out, nil
}
