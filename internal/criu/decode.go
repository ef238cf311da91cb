package criu

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Decode decodes an entry strictly: it has to be in the one form in which CRIU writes it,
// so that CRIU, which has another decoder, cannot read it differently. Every field
// is known to go-criu or to the table of [LaterFields]; fields come in their order, and none twice that
// does not repeat; numbers fit their types; strings end where they say.
func Decode(entry []byte, m proto.Message) error {
	if err := canonical(entry, m.ProtoReflect().Descriptor(), 0); err != nil {
		return err
	}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(entry, m); err != nil {
		return errors.New("it cannot be decoded")
	}
	return nil
}

// maxDepth bounds messages within messages. CRIU's have five.
const maxDepth = 16

// canonical walks over an encoded message.
func canonical(b []byte, desc protoreflect.MessageDescriptor, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s lies too deep", desc.Name())
	}
	missing := desc.RequiredNumbers().Len()
	for last := protowire.Number(0); len(b) > 0; {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 || size != protowire.SizeTag(n) {
			return fmt.Errorf("%s cannot be decoded", desc.Name())
		}
		length := protowire.ConsumeFieldValue(n, kind, b[size:])
		if length < 0 {
			return fmt.Errorf("%s cannot be decoded", desc.Name())
		}
		value := b[size : size+length]
		b = b[size+length:]
		fd := desc.Fields().ByNumber(n)
		if fd == nil {
			fd = laterFieldOf(desc.Name(), n)
		}
		switch {
		case n < last:
			return fmt.Errorf("field %d of %s is out of order", n, desc.Name())
		case fd == nil:
			return fmt.Errorf("field %d of %s is unknown: a newer CRIU wrote it", n, desc.Name())
		case n == last && (!fd.IsList() || fd.IsPacked()):
			return fmt.Errorf("field %d of %s comes twice", n, desc.Name())
		case fd.Cardinality() == protoreflect.Required:
			missing--
		}
		last = n
		if err := canonicalValue(value, kind, fd, depth); err != nil {
			return err
		}
	}
	if missing > 0 {
		return fmt.Errorf("%s lacks %d of its fields", desc.Name(), missing)
	}
	return nil
}

// canonicalValue looks at the value of one field.
func canonicalValue(b []byte, kind protowire.Type, fd protoreflect.FieldDescriptor, depth int) error {
	parent := fd.Parent().Name()
	bad := func(why string) error { return fmt.Errorf("%s of %s %s", fd.Name(), parent, why) }
	if fd.IsPacked() {
		packed, n := protowire.ConsumeBytes(b)
		if kind != protowire.BytesType || n < 0 {
			return bad("cannot be decoded")
		}
		for len(packed) > 0 {
			n := protowire.ConsumeFieldValue(fd.Number(), wireType(fd.Kind()), packed)
			if n < 0 {
				return bad("cannot be decoded")
			}
			if err := canonicalScalar(packed[:n], fd, bad); err != nil {
				return err
			}
			packed = packed[n:]
		}
		return nil
	}
	if kind != wireType(fd.Kind()) {
		return bad("cannot be decoded")
	}
	if kind == protowire.BytesType {
		content, n := protowire.ConsumeBytes(b)
		switch {
		case n != protowire.SizeBytes(len(content)):
			return bad("is longer than it has to be")
		case fd.Message() != nil:
			return canonical(content, fd.Message(), depth+1)
		case fd.Kind() == protoreflect.StringKind && bytes.IndexByte(content, 0) >= 0:
			return bad("has a NUL, where it would end for CRIU")
		}
		return nil
	}
	return canonicalScalar(b, fd, bad)
}

// canonicalScalar wants a number in its shortest form, and within its type.
func canonicalScalar(b []byte, fd protoreflect.FieldDescriptor, bad func(string) error) error {
	if wireType(fd.Kind()) != protowire.VarintType {
		return nil // of fixed width
	}
	v, n := protowire.ConsumeVarint(b)
	if n != protowire.SizeVarint(v) {
		return bad("is longer than it has to be")
	}
	fits := true
	switch fd.Kind() {
	case protoreflect.BoolKind:
		fits = v <= 1
	case protoreflect.Uint32Kind, protoreflect.Sint32Kind:
		fits = v <= math.MaxUint32
	case protoreflect.Int32Kind:
		fits = int64(v) == int64(int32(v))
	case protoreflect.EnumKind:
		fits = fd.Enum().Values().ByNumber(protoreflect.EnumNumber(int32(v))) != nil && v <= math.MaxInt32 ||
			v <= math.MaxInt32 && laterValues[fd.FullName()]
	}
	if !fits {
		return bad(fmt.Sprintf("is %d, which it cannot be", v))
	}
	return nil
}

// wireType is how values of a kind are written (protobuf.dev, "Encoding"). CRIU has no groups.
func wireType(kind protoreflect.Kind) protowire.Type {
	switch kind {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	}
	return protowire.VarintType
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
