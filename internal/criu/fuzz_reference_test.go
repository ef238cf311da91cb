package criu

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// refusedByCRIU says why protobuf-c, with which CRIU reads its images, would refuse an entry,
// or read it otherwise than it was written: the last one of a field's values wins there. It goes by the
// encoding alone. Of the fields that go-criu does not know it knows nothing but that they come once.
func refusedByCRIU(entry []byte, desc protoreflect.MessageDescriptor) string {
	seen := map[protowire.Number]bool{}
	for b := entry; len(b) > 0; {
		n, kind, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			return "a tag is damaged"
		}
		size := protowire.ConsumeFieldValue(n, kind, b[tag:])
		if size < 0 {
			return "a value is damaged"
		}
		value := b[tag : tag+size]
		b = b[tag+size:]
		fd := desc.Fields().ByNumber(n)
		if seen[n] && (fd == nil || !fd.IsList()) && (desc.Name() != "creds_entry" || n != 19) {
			return string(desc.Name()) + ": a field comes twice"
		}
		seen[n] = true
		if kind == protowire.VarintType {
			if v, _ := protowire.ConsumeVarint(value); protowire.SizeVarint(v) != len(value) {
				return string(desc.Name()) + ": a number is longer than it has to be"
			}
		}
		if fd == nil {
			continue
		}
		if want := wireTypes[fd.Kind()]; kind != want {
			return string(fd.FullName()) + ": it is encoded as another type"
		}
		if v, _ := protowire.ConsumeVarint(value); kind == protowire.VarintType && slices.Contains(narrow, fd.Kind()) &&
			int64(v) != int64(int32(v)) && v > math.MaxUint32 {
			return string(fd.FullName()) + ": a number has more than 32 bits"
		}
		if fd.Message() != nil {
			inner, _ := protowire.ConsumeBytes(value)
			if why := refusedByCRIU(inner, fd.Message()); why != "" {
				return why
			}
		}
	}
	for i := range desc.RequiredNumbers().Len() {
		if n := desc.RequiredNumbers().Get(i); !seen[n] {
			return string(desc.Name()) + ": a required field is missing"
		}
	}
	return ""
}

// wireTypes are the types of encoding of the kinds of fields that CRIU's images have. No
// repeated field of them is packed.
var wireTypes = map[protoreflect.Kind]protowire.Type{
	protoreflect.BoolKind: protowire.VarintType, protoreflect.EnumKind: protowire.VarintType,
	protoreflect.Int32Kind: protowire.VarintType, protoreflect.Sint32Kind: protowire.VarintType,
	protoreflect.Uint32Kind: protowire.VarintType,
	protoreflect.Int64Kind:  protowire.VarintType, protoreflect.Sint64Kind: protowire.VarintType,
	protoreflect.Uint64Kind:  protowire.VarintType,
	protoreflect.Fixed32Kind: protowire.Fixed32Type, protoreflect.Sfixed32Kind: protowire.Fixed32Type,
	protoreflect.FloatKind:   protowire.Fixed32Type,
	protoreflect.Fixed64Kind: protowire.Fixed64Type, protoreflect.Sfixed64Kind: protowire.Fixed64Type,
	protoreflect.DoubleKind: protowire.Fixed64Type,
	protoreflect.StringKind: protowire.BytesType, protoreflect.BytesKind: protowire.BytesType,
	protoreflect.MessageKind: protowire.BytesType,
}

// narrow are the kinds of numbers of which CRIU takes the lower 32 bits.
var narrow = []protoreflect.Kind{protoreflect.EnumKind, protoreflect.Int32Kind, protoreflect.Sint32Kind,
	protoreflect.Uint32Kind}

// payloads takes an image apart, without any of the code that is tested.
func payloads(kind string, image []byte) (entries [][]byte, whole bool) {
	b, ok := bytes.CutPrefix(image, magicOf(kind))
	for ok && len(b) > 0 {
		if len(b) < 4 || int64(len(b)-4) < int64(binary.LittleEndian.Uint32(b)) {
			return entries, false
		}
		end := 4 + int(binary.LittleEndian.Uint32(b))
		entries = append(entries, b[4:end])
		b = b[end:]
	}
	return entries, ok
}

func framed(kind string, entries ...[]byte) []byte {
	out := magicOf(kind)
	for _, e := range entries {
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(e))), e...)
	}
	return out
}

func fuzzImage(f *testing.F, kind string, entries ...proto.Message) []byte {
	f.Helper()
	image, err := Encode(kind, entries...)
	if err != nil {
		f.Fatal(err)
	}
	return image
}

// filled is a message in which every field is set: for depth 0 the required ones, else the
// others too, messages down to that depth.
func filled(zero proto.Message, depth int) proto.Message {
	m := zero.ProtoReflect().New()
	fill(m, depth)
	return m.Interface()
}

func fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Cardinality() != protoreflect.Required && depth == 0 {
			continue
		}
		next := func() protoreflect.Value {
			if fd.Message() == nil {
				return scalars[fd.Kind()]
			}
			inner := m.NewField(fd)
			if fd.IsList() {
				inner = inner.List().NewElement()
			}
			fill(inner.Message(), max(depth-1, 0))
			return inner
		}
		if !fd.IsList() {
			if fd.Kind() == protoreflect.EnumKind {
				m.Set(fd, protoreflect.ValueOfEnum(fd.Enum().Values().Get(0).Number()))
				continue
			}
			m.Set(fd, next())
			continue
		}
		list := m.Mutable(fd).List()
		list.Append(next())
		list.Append(next())
	}
}

var scalars = map[protoreflect.Kind]protoreflect.Value{
	protoreflect.BoolKind:   protoreflect.ValueOfBool(true),
	protoreflect.StringKind: protoreflect.ValueOfString("/etc/hosts"),
	protoreflect.BytesKind:  protoreflect.ValueOfBytes([]byte{1, 2}),
	protoreflect.Int32Kind:  protoreflect.ValueOfInt32(-1), protoreflect.Sint32Kind: protoreflect.ValueOfInt32(-2),
	protoreflect.Sfixed32Kind: protoreflect.ValueOfInt32(3),
	protoreflect.Uint32Kind:   protoreflect.ValueOfUint32(1), protoreflect.Fixed32Kind: protoreflect.ValueOfUint32(5),
	protoreflect.Int64Kind: protoreflect.ValueOfInt64(-6), protoreflect.Sint64Kind: protoreflect.ValueOfInt64(7),
	protoreflect.Sfixed64Kind: protoreflect.ValueOfInt64(8),
	protoreflect.Uint64Kind:   protoreflect.ValueOfUint64(math.MaxUint64),
	protoreflect.Fixed64Kind:  protoreflect.ValueOfUint64(10),
	protoreflect.FloatKind:    protoreflect.ValueOfFloat32(11), protoreflect.DoubleKind: protoreflect.ValueOfFloat64(12),
}
