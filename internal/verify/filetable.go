package verify

import (
	"errors"
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// pidfd is a type of files that CRIU 4.2 has and go-criu does not know.
const pidfd fdinfo.FdTypes = 20

// bodies are the fields of file_entry that tell the rest, by the file's type (CRIU: files.c, collect_one_file).
var bodies = map[fdinfo.FdTypes]protowire.Number{
	fdinfo.FdTypes_REG: 3, fdinfo.FdTypes_INETSK: 4, fdinfo.FdTypes_NS: 5, fdinfo.FdTypes_PACKETSK: 6,
	fdinfo.FdTypes_NETLINKSK: 7, fdinfo.FdTypes_EVENTFD: 8, fdinfo.FdTypes_EVENTPOLL: 9, fdinfo.FdTypes_SIGNALFD: 10,
	fdinfo.FdTypes_TUNF: 11, fdinfo.FdTypes_TIMERFD: 12, fdinfo.FdTypes_INOTIFY: 13, fdinfo.FdTypes_FANOTIFY: 14,
	fdinfo.FdTypes_EXT: 15, fdinfo.FdTypes_UNIXSK: 16, fdinfo.FdTypes_FIFO: 17, fdinfo.FdTypes_PIPE: 18,
	fdinfo.FdTypes_TTY: 19, fdinfo.FdTypes_MEMFD: 20, fdinfo.FdTypes_BPFMAP: 21, pidfd: pidfdBody,
}

const pidfdBody = 22

// openFile is an entry of files.img.
type openFile struct {
	*fdinfo.FileEntry
	kind  fdinfo.FdTypes
	flags uint32
	owner *fown.FownEntry // nil if this type of file has none
	pid   int32           // of a pidfd
	used  bool            // a descriptor refers to it
	sent  bool            // it is in a message that nobody has received
}

func (f *openFile) kindName() string {
	if f.kind == pidfd {
		return "PIDFD"
	}
	return f.kind.String()
}

// String names the file for a person.
func (f *openFile) String() string {
	what := "file"
	switch f.kind {
	case fdinfo.FdTypes_INETSK, fdinfo.FdTypes_UNIXSK, fdinfo.FdTypes_NETLINKSK, fdinfo.FdTypes_PACKETSK:
		what = "socket"
	}
	switch {
	case f.kind == fdinfo.FdTypes_REG:
		return fmt.Sprintf("file %d (%s)", f.GetId(), f.GetReg().GetName())
	case f.kind == fdinfo.FdTypes_UNIXSK && len(f.GetUsk().GetName()) > 0:
		return fmt.Sprintf("socket %d (%s)", f.GetId(), f.GetUsk().GetName())
	}
	return fmt.Sprintf("%s %d (%s)", what, f.GetId(), f.kindName())
}

// readFiles reads files.img. Older CRIUs wrote an image for each type, which CRIU still reads
// if there is no files.img; they are refused.
func (o *openFiles) readFiles() error {
	entries, err := criu.Entries[*fdinfo.FileEntry](o.images, filesImage, "FILES")
	if err != nil {
		return err
	}
	o.byID = make(map[uint32]*openFile, len(entries))
	for _, e := range entries {
		f, err := newFile(e)
		if err != nil {
			return malformed(filesImage, "file %d: %v", e.GetId(), err)
		}
		if o.byID[e.GetId()] != nil {
			return malformed(filesImage, "there are two files %d", e.GetId())
		}
		o.files, o.byID[e.GetId()] = append(o.files, f), f
	}
	return nil
}

// fileType returns the type of a file or descriptor, which is the field of the given
// number. go-criu may have it among the fields that it does not know.
func fileType(m interface {
	protoreflect.ProtoMessage
	GetType() fdinfo.FdTypes
}, field protowire.Number) (fdinfo.FdTypes, error) {
	unknown, err := criu.Varints(m, field)
	if err != nil {
		return 0, err
	}
	known := m.ProtoReflect().Has(m.ProtoReflect().Descriptor().Fields().ByNumber(field))
	kind := m.GetType()
	switch {
	case known && len(unknown) == 0:
	case !known && len(unknown) == 1 && unknown[0] <= 1<<16:
		kind = fdinfo.FdTypes(unknown[0])
	default:
		return 0, errors.New("it has not one type")
	}
	if bodies[kind] == 0 {
		return 0, fmt.Errorf("type %d is unknown", kind)
	}
	return kind, nil
}

func newFile(e *fdinfo.FileEntry) (*openFile, error) {
	kind, err := fileType(e, 1)
	if err != nil {
		return nil, err
	}
	f := &openFile{FileEntry: e, kind: kind}
	pidfds, err := criu.Messages(e, pidfdBody)
	if err != nil {
		return nil, err
	}
	found := len(pidfds)
	var body protoreflect.Message
	e.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if fd.Message() == nil {
			return true
		}
		if found++; fd.Number() == bodies[kind] {
			body = value.Message()
		}
		return true
	})
	switch {
	case found != 1, (kind == pidfd) != (body == nil):
		return nil, errors.New("it does not say what its type needs, and only that")
	case kind == pidfd:
		return f, f.decodePIDFile(pidfds[0])
	}
	fields := body.Descriptor().Fields()
	if body.Get(fields.ByName("id")).Uint() != uint64(e.GetId()) {
		return nil, errors.New("it has two IDs")
	}
	if fd := fields.ByName("flags"); fd != nil {
		f.flags = uint32(body.Get(fd).Uint())
	}
	if fd := fields.ByName("fown"); fd != nil {
		f.owner, _ = body.Get(fd).Message().Interface().(*fown.FownEntry)
	}
	return f, nil
}

// decodePIDFile decodes a pidfd_entry (CRIU: images/pidfd.proto): id, ino, flags, nspid, fown, in this order.
func (f *openFile) decodePIDFile(b []byte) error {
	var numbers [4]uint64
	for i := range numbers {
		n, kind, tag := protowire.ConsumeTag(b)
		if tag < 0 || n != protowire.Number(i+1) || kind != protowire.VarintType {
			return errors.New("it is no pidfd as CRIU writes it")
		}
		v, size := protowire.ConsumeVarint(b[tag:])
		if size < 0 || size != protowire.SizeVarint(v) {
			return errors.New("it is no pidfd as CRIU writes it")
		}
		numbers[i], b = v, b[tag+size:]
	}
	n, kind, tag := protowire.ConsumeTag(b)
	if tag < 0 || n != 5 || kind != protowire.BytesType {
		return errors.New("it is no pidfd as CRIU writes it")
	}
	owner, size := protowire.ConsumeBytes(b[tag:])
	if size < 0 || tag+size != len(b) {
		return errors.New("it is no pidfd as CRIU writes it")
	}
	if numbers[0] != uint64(f.GetId()) {
		return errors.New("it has two IDs")
	}
	if numbers[3] != uint64(int64(int32(numbers[3]))) {
		return errors.New("its PID is too large")
	}
	f.flags, f.pid, f.owner = uint32(numbers[2]), int32(numbers[3]), &fown.FownEntry{}
	return criu.Decode(owner, f.owner)
}

// editFile returns a copy of a file's entry that CRIU is to read in its place, for the caller to change.
func (o *openFiles) editFile(f *openFile) *fdinfo.FileEntry {
	if o.changed[f.GetId()] == nil {
		o.changed[f.GetId()] = proto.Clone(f.FileEntry).(*fdinfo.FileEntry)
	}
	return o.changed[f.GetId()]
}

// entry is a file's entry as CRIU is to read it.
func (o *openFiles) entry(f *openFile) *fdinfo.FileEntry {
	if changed := o.changed[f.GetId()]; changed != nil {
		return changed
	}
	return f.FileEntry
}

// replaceFiles makes CRIU read the entries that were changed.
func (o *openFiles) replaceFiles() error {
	if len(o.changed) == 0 {
		return nil
	}
	out := make([]proto.Message, 0, len(o.files))
	for _, f := range o.files {
		out = append(out, o.entry(f))
	}
	return o.replace(filesImage, "FILES", out...)
}

// unused refuses files that no descriptor refers to: CRIU would wait for them, or connect to what has
// their name. Files that are mapped, run or stood in have none.
func (o *openFiles) unused() error {
	for _, f := range o.files {
		switch f.kind {
		case fdinfo.FdTypes_REG, fdinfo.FdTypes_MEMFD:
		default:
			// An external socket has been refused with better words.
			if !f.used && f.GetUsk().GetUflags() == 0 {
				return malformed(filesImage, "no process has file %d (%s)", f.GetId(), f.kindName())
			}
		}
	}
	return nil
}
