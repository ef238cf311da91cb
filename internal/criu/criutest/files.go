package criutest

import (
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fs"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pipe"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_opts "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"
	sk_unix "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-unix"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// What [Files] has: the mounts, and the file that is root and working directory of the process.
const (
	RootMount = 100
	ProcMount = 101
	DevMount  = 102
	PtsMount  = 103
	RootFile  = 2
	PIDFD     = 20 // a type of files that go-criu does not know
)

// Files returns the images, by name, that CRIU 4.2 writes of the files of the process 1 of [Tasks], whose IDs are
// all 2: standard input from /dev/null, output to a pipe, and these files, from descriptor 2 on. More entries
// than these descriptors show are made by the caller.
func Files(files ...*fdinfo.FileEntry) map[string]string {
	const null, stdout = 3, 4
	all := append([]*fdinfo.FileEntry{
		Regular(RootFile, "/", 0o40755),
		Regular(null, "/dev/null", 0o20666,
			func(e *regfile.RegFileEntry) { e.MntId = proto.Int32(DevMount); e.Flags = proto.Uint32(2) }),
		{Type: fdinfo.FdTypes_PIPE.Enum(), Id: proto.Uint32(stdout), Pipe: &pipe.PipeEntry{
			Id: proto.Uint32(stdout), PipeId: proto.Uint32(7001), Flags: proto.Uint32(1), Fown: NoOwner(),
		}},
	}, files...)
	entries := make([]proto.Message, len(all))
	table := []proto.Message{Descriptor(0, all[1]), Descriptor(1, all[2])}
	for i, f := range all {
		entries[i] = f
		if i > 2 {
			table = append(table, Descriptor(uint32(i-1), f))
		}
	}
	var mounts []proto.Message
	for i, at := range []string{"/", "/proc", "/dev", "/dev/pts"} {
		mounts = append(mounts, &mnt.MntEntry{
			Fstype: proto.Uint32([]uint32{17, 1, 5, 6}[i]), MntId: proto.Uint32(RootMount + uint32(i)),
			ParentMntId: proto.Uint32(RootMount),
			RootDev:     proto.Uint32(50 + uint32(i)), Flags: proto.Uint32(0), Root: proto.String("/"), Mountpoint: &at,
			Source: proto.String("none"), Options: proto.String(""),
		})
	}
	return map[string]string{
		"files.img":    Image("FILES", entries...),
		"fdinfo-2.img": Image("FDINFO", table...),
		"fs-1.img": Image("FS", &fs.FsEntry{CwdId: proto.Uint32(RootFile), RootId: proto.Uint32(RootFile),
			Umask: proto.Uint32(0o22)}),
		"mountpoints-2.img": Image("MNTS", mounts...),
	}
}

// Descriptor returns the entry of a descriptor of a file.
func Descriptor(fd uint32, f *fdinfo.FileEntry) *fdinfo.FdinfoEntry {
	return &fdinfo.FdinfoEntry{Id: f.Id, Flags: proto.Uint32(0), Type: f.Type, Fd: &fd}
}

// NoOwner is what CRIU writes where nobody gets signals.
func NoOwner() *fown.FownEntry {
	zero := proto.Uint32(0)
	return &fown.FownEntry{Uid: zero, Euid: zero, Signum: zero, PidType: zero, Pid: zero}
}

// Regular returns a file that is opened by its path, in the root file system and for reading.
func Regular(id uint32, name string, mode uint32, change ...func(*regfile.RegFileEntry)) *fdinfo.FileEntry {
	e := &regfile.RegFileEntry{
		Id: &id, Flags: proto.Uint32(0), Pos: proto.Uint64(0), Fown: NoOwner(), Name: &name, MntId: proto.Int32(RootMount),
		Mode: &mode,
	}
	for _, f := range change {
		f(e)
	}
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: &id, Reg: e}
}

// SocketOptions are those of a new socket.
func SocketOptions() *sk_opts.SkOptsEntry {
	zero := proto.Uint64(0)
	return &sk_opts.SkOptsEntry{
		SoSndbuf: proto.Uint32(212992), SoRcvbuf: proto.Uint32(212992), SoSndTmoSec: zero, SoSndTmoUsec: zero,
		SoRcvTmoSec: zero, SoRcvTmoUsec: zero,
		Reuseaddr: proto.Bool(true), SoPriority: proto.Uint32(0), SoRcvlowat: proto.Uint32(1),
	}
}

// Listener returns a socket that listens on a TCP port of any address.
func Listener(id, port uint32, change ...func(*sk_inet.InetSkEntry)) *fdinfo.FileEntry {
	e := &sk_inet.InetSkEntry{
		Id: &id, Ino: proto.Uint32(9000 + id), Family: proto.Uint32(2), Type: proto.Uint32(1), Proto: proto.Uint32(6),
		State:   proto.Uint32(10),
		SrcPort: &port, DstPort: proto.Uint32(0), Flags: proto.Uint32(2), Backlog: proto.Uint32(128), SrcAddr: []uint32{0},
		DstAddr: []uint32{0},
		Fown:    NoOwner(), Opts: SocketOptions(), IpOpts: &sk_inet.IpOptsEntry{}, NsId: proto.Uint32(2),
	}
	for _, f := range change {
		f(e)
	}
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_INETSK.Enum(), Id: &id, Isk: e}
}

// UnixSocket returns a Unix stream socket with the inode 9000 + id. peer is the ID of its other end, 0 if it listens.
func UnixSocket(id, peer uint32, name string, change ...func(*sk_unix.UnixSkEntry)) *fdinfo.FileEntry {
	e := &sk_unix.UnixSkEntry{
		Id: &id, Ino: proto.Uint32(9000 + id), Type: proto.Uint32(1), State: proto.Uint32(1), Flags: proto.Uint32(2),
		Uflags:  proto.Uint32(0),
		Backlog: proto.Uint32(0), Peer: proto.Uint32(9000 + peer), Fown: NoOwner(), Opts: SocketOptions(),
		Name: []byte(name), NsId: proto.Uint32(2),
	}
	if peer == 0 {
		e.Peer, e.State = proto.Uint32(0), proto.Uint32(10)
	}
	if name != "" && name[0] != 0 {
		e.MntId = proto.Int32(RootMount)
		e.FilePerms = &sk_unix.FilePermsEntry{Mode: proto.Uint32(0o140755), Uid: proto.Uint32(0), Gid: proto.Uint32(0)}
	}
	for _, f := range change {
		f(e)
	}
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_UNIXSK.Enum(), Id: &id, Usk: e}
}

// PIDFile returns a pidfd of a process, -1 for one that has ended.
func PIDFile(id uint32, pid int32) *fdinfo.FileEntry {
	owner, err := proto.Marshal(NoOwner())
	if err != nil {
		panic(err)
	}
	var b []byte
	for i, n := range []uint64{uint64(id), 1, 0, uint64(int64(pid))} {
		b = protowire.AppendVarint(protowire.AppendTag(b, protowire.Number(i+1), protowire.VarintType), n)
	}
	b = protowire.AppendBytes(protowire.AppendTag(b, 5, protowire.BytesType), owner)
	kind := fdinfo.FdTypes(PIDFD)
	e := &fdinfo.FileEntry{Type: &kind, Id: &id}
	e.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 22, protowire.BytesType), b))
	return e
}

// WithData returns an image with data after each of its entries.
func WithData(kind string, entries ...any) string {
	out := Image(kind)
	for _, e := range entries {
		switch e := e.(type) {
		case proto.Message:
			out += Image(kind, e)[len(Image(kind)):]
		case string:
			out += e
		default:
			panic(fmt.Sprintf("%T is neither entry nor data", e))
		}
	}
	return out
}
