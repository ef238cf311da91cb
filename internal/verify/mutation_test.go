package verify

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
	"github.com/cri-restore/cri-restore/internal/verify/fields"
)

// choices are what the fuzzer decides, a byte at a time; nothing more is chosen when there are none left.
type choices []byte

func (c *choices) of(n int) int {
	if n <= 1 || len(*c) == 0 {
		return 0
	}
	b := int((*c)[0])
	*c = (*c)[1:]
	if n > 256 && len(*c) > 0 {
		b = b<<8 | int((*c)[0])
		*c = (*c)[1:]
	}
	return b % n
}

// kindsOf are the messages of images, by the beginning of their names.
var kindsOf = func() map[string][]protoreflect.MessageType {
	out := map[string][]protoreflect.MessageType{}
	for _, i := range fields.Images {
		for _, name := range strings.Fields(i.Messages) {
			if m, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name)); err == nil {
				out[i.Name] = append(out[i.Name], m)
			}
		}
	}
	return out
}()

// imageEntries is an image as its entries.
type imageEntries struct {
	header  []byte
	entries []proto.Message
	rest    []byte // what cannot be decoded
}

func decodeImage(name string, content []byte) *imageEntries {
	var types []protoreflect.MessageType
	longest := ""
	for prefix, m := range kindsOf {
		if strings.HasPrefix(name, prefix) && len(prefix) > len(longest) {
			longest, types = prefix, m
		}
	}
	header := 8
	if name == "inventory.img" {
		header = 4
	}
	if len(types) == 0 || len(content) < header {
		return nil
	}
	d := &imageEntries{header: content[:header]}
	for b := content[header:]; len(b) > 0; {
		if len(b) < 4 || uint64(binary.LittleEndian.Uint32(b)) > uint64(len(b)-4) {
			d.rest = b
			break
		}
		n := 4 + int(binary.LittleEndian.Uint32(b))
		m := types[min(len(d.entries), len(types)-1)].New().Interface()
		if proto.Unmarshal(b[4:n], m) != nil {
			d.rest = b
			break
		}
		d.entries, b = append(d.entries, m), b[n:]
	}
	return d
}

func (d *imageEntries) encode() []byte {
	out := slices.Clone(d.header)
	for _, m := range d.entries {
		payload, err := proto.MarshalOptions{AllowPartial: true, Deterministic: true}.Marshal(m)
		if err != nil {
			panic(err)
		}
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(payload))), payload...)
	}
	return append(out, d.rest...)
}

// texts are what paths and names become.
var texts = []string{
	"", "/", "/dev/console", "/dev/pts", "/dev/pts/0", "/proc/5/stat", "/proc/1/fd/7", "/proc/self", "/bin/busybox", "/etc/hosts", "/dev/shm", "/sys/fs/cgroup", "..", "/a/../..",
	"/volume/x", "/x (deleted)", "/tmp/x.ghost", "pipe:[1]", "x\x00y", "\xff", "/dev/null", "/.", "//", "/etc/hostname", "/proc", "/dev", "/0",
}

var numbers = []uint64{0, 1, 2, 3, 5, 9, 10, 13, 14, 17, 20, 56, 58, 255, 1 << 12, 0o100644, 0o40755, 0o20666, 1 << 20, math.MaxInt32, math.MaxUint32, math.MaxInt64, math.MaxUint64}

// change changes something of a message.
func (c *choices) change(m protoreflect.Message, depth int) {
	all := m.Descriptor().Fields()
	if all.Len() == 0 || depth > 4 {
		return
	}
	// One that is there, or any.
	fd := all.Get(c.of(all.Len()))
	if c.of(4) > 0 {
		var there []protoreflect.FieldDescriptor
		for i := range all.Len() {
			if m.Has(all.Get(i)) {
				there = append(there, all.Get(i))
			}
		}
		if len(there) > 0 {
			fd = there[c.of(len(there))]
		}
	}
	if fd.IsMap() {
		return
	}
	switch {
	case fd.IsList():
		list := m.Mutable(fd).List()
		switch c.of(4) {
		case 0:
			list.Truncate(c.of(list.Len() + 1))
		case 1:
			if list.Len() > 0 {
				list.Append(list.Get(c.of(list.Len())))
			}
		default:
			if fd.Message() != nil {
				if list.Len() == 0 || c.of(4) == 0 {
					list.AppendMutable()
					c.fill(list.Get(list.Len()-1).Message(), depth+1)
				}
				c.change(list.Get(c.of(list.Len())).Message(), depth+1)
			} else {
				list.Append(c.scalar(fd))
			}
		}
	case c.of(6) == 5:
		m.Clear(fd)
	case fd.Message() != nil:
		if !m.Has(fd) {
			c.fill(m.Mutable(fd).Message(), depth+1)
		}
		c.change(m.Mutable(fd).Message(), depth+1)
	default:
		m.Set(fd, c.scalar(fd))
	}
}

// fill sets what a message has to have.
func (c *choices) fill(m protoreflect.Message, depth int) {
	for i := range m.Descriptor().Fields().Len() {
		fd := m.Descriptor().Fields().Get(i)
		if fd.Cardinality() != protoreflect.Required || depth > 6 {
			continue
		}
		if fd.Message() != nil {
			c.fill(m.Mutable(fd).Message(), depth+1)
		} else {
			m.Set(fd, c.scalar(fd))
		}
	}
}

func (c *choices) scalar(fd protoreflect.FieldDescriptor) protoreflect.Value {
	n := numbers[c.of(len(numbers))]
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n&1 == 1)
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(c.of(values.Len())).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(n)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.ToValidUTF8(texts[c.of(len(texts))], "?"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(texts[c.of(len(texts))]))
	}
	return fd.Default()
}

// absent are images that the honest checkpoint has not, by name.
var absent = map[string]string{
	"remap-fpath.img": "REMAP_FPATH", "ghost-file-1.img": "GHOST_FILE", "filelocks.img": "FILE_LOCKS", "tty-info.img": "TTY_INFO", "memfd.img": "MEMFD_INODE",
	"pipes-data.img": "PIPES_DATA", "ipcns-shm-11.img": "IPCNS_SHM", "ipcns-msg-11.img": "IPCNS_MSG", "ipcns-sem-11.img": "IPCNS_SEM", "core-11.img": "CORE", "fdinfo-4.img": "FDINFO",
	"ids-11.img": "IDS", "mm-11.img": "MM", "sk-queues.img": "SK_QUEUES",
}

// mutate changes a whole checkpoint.
func (c *choices) mutate(files map[string][]byte) {
	names := slices.Sorted(maps.Keys(files))
	name := names[c.of(len(names))]
	switch c.of(16) {
	case 0:
		delete(files, name)
		return
	case 1:
		other := names[c.of(len(names))]
		files[name] = files[other]
		return
	case 2, 3:
		all := slices.Sorted(maps.Keys(absent))
		name = all[c.of(len(all))]
		if files[name] == nil {
			files[name] = []byte(criutest.Image(absent[name]))
		}
	case 4:
		files[name] = files[name][:c.of(len(files[name])+1)]
		return
	}
	d := decodeImage(name, files[name])
	if d == nil {
		return
	}
	switch i := c.of(len(d.entries)); {
	case len(d.entries) == 0 || c.of(8) == 7:
		if empty := decodeImage(name, append(slices.Clone(d.header), 0, 0, 0, 0)); empty != nil && len(empty.entries) == 0 {
			return
		} else if empty != nil {
			c.fill(empty.entries[0].ProtoReflect(), 0)
			d.entries = append(d.entries, empty.entries[0])
		}
	case c.of(10) == 9:
		d.entries = slices.Delete(d.entries, i, i+1)
	case c.of(10) == 9:
		d.entries = append(d.entries, proto.Clone(d.entries[i]))
	default:
		for range 1 + c.of(3) {
			c.change(d.entries[i].ProtoReflect(), 0)
		}
	}
	files[name] = d.encode()
}

// mutateSpec changes what the pod is granted.
func (c *choices) mutateSpec(t testing.TB, spec *specs.Spec) {
	switch c.of(8) {
	case 1:
		spec.Process.Terminal = !spec.Process.Terminal
	case 2:
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: texts[1+c.of(len(texts)-1)], Type: "bind", Source: t.TempDir(), Options: []string{"rbind", "ro"}})
	case 3:
		if len(spec.Mounts) > 0 {
			i := c.of(len(spec.Mounts))
			spec.Mounts = slices.Delete(spec.Mounts, i, i+1)
		}
	case 4:
		spec.Root.Readonly = !spec.Root.Readonly
	case 5:
		spec.Process.User.UID = 1000
	case 6:
		spec.Linux.MaskedPaths = append(spec.Linux.MaskedPaths, texts[c.of(len(texts))])
	case 7:
		spec.Process.Capabilities = nil
	}
}
