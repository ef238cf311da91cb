package criu

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What Go takes for a decoded message, in bytes, rounded up: of its struct for itself and for each field that it may
// have, and for each value, which lies elsewhere. An entry has a place in some tables as well.
const (
	ofMessage, ofField, ofValue, ofEntry = 64, 8, 16, 160
)

// memory is what a message takes when it is decoded. One that cannot be decoded takes what was counted until then.
func memory(b []byte, desc protoreflect.MessageDescriptor, depth int) int64 {
	total := int64(ofMessage + ofField*desc.Fields().Len())
	if depth == 0 {
		total += ofEntry
	}
	for len(b) > 0 && depth <= maxDepth {
		n, kind, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			break
		}
		size := protowire.ConsumeFieldValue(n, kind, b[tag:])
		if size < 0 {
			break
		}
		total += ofValue
		if kind == protowire.BytesType {
			content, _ := protowire.ConsumeBytes(b[tag:])
			fd := desc.Fields().ByNumber(n)
			switch {
			case fd != nil && fd.Message() != nil:
				total += memory(content, fd.Message(), depth+1)
			case fd != nil && fd.IsPacked():
				total += 8 * int64(len(content)) // of at least a byte each
			default:
				total += int64(len(content))
			}
		}
		b = b[tag+size:]
	}
	return total
}
