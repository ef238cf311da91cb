package integration

import (
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	ghost_file "github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/ns"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_opts "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/criu"
)

// withoutRaw takes the capability away that raw sockets need.
func withoutRaw() harness.ContainerOpt {
	return harness.Security(func(s *runtime.LinuxContainerSecurityContext) {
		s.Capabilities = &runtime.Capability{DropCapabilities: []string{"NET_RAW"}}
	})
}

// kindsOfFiles are the kinds that the workload holds all at once.
var kindsOfFiles = []string{
	"kinds", "tcp", "udp", "unix", "pair", "inflight", "fifo", "event", "timer", "inotify", "memfd", "pidfd", "netlink",
	"proc", "deleted", "owner", "shut",
}

// TestVerifyFiles restores a process with files of every kind that CRIU and this package
// know, and refuses the same checkpoint with one of them changed.
func TestVerifyFiles(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives+"\ntcp_connections = \"refuse\"\n"))
	img := workloadImage(t, n)
	pod := n.Pod(t)
	c := pod.Run("kinds", img, workload(kindsOfFiles...), withoutRaw())
	counted := waitOK(t, c, 5)
	archive := checkpointOf(t, c)
	pod.Remove()
	pod = n.Pod(t)

	for name, tc := range map[string]struct {
		change func(*imageEditor)
		code   codes.Code
		words  []string
	}{
		"deleted file that is a device": {func(e *imageEditor) {
			editFile(e, func(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == "/tmp/kinds.deleted" },
				func(f *fdinfo.FileEntry) { f.Reg.Mode = proto.Uint32(0o20666) })
			e.Add("ghost-file-1.img", "GHOST_FILE", &ghost_file.GhostFileEntry{Uid: proto.Uint32(0), Gid: proto.Uint32(0),
				Mode: proto.Uint32(0o20666), Rdev: proto.Uint32(0x101)})
		}, codes.PermissionDenied, []string{"/tmp/kinds.deleted", "no device"}},
		"deleted file with set-user-ID": {func(e *imageEditor) {
			e.Add("ghost-file-1.img", "GHOST_FILE", &ghost_file.GhostFileEntry{Uid: proto.Uint32(0), Gid: proto.Uint32(0),
				Mode: proto.Uint32(0o104755)})
		}, codes.PermissionDenied, []string{"/tmp/kinds.deleted", "set-user-ID"}},
		"external socket": {func(e *imageEditor) {
			editFile(e, func(f *fdinfo.FileEntry) bool { return string(f.GetUsk().GetName()) == "/tmp/kinds.dgram\x00" },
				func(f *fdinfo.FileEntry) { f.Usk.Uflags = proto.Uint32(1) })
		}, codes.PermissionDenied, []string{"/tmp/kinds.dgram", "external socket"}},
		"raw socket": {func(e *imageEditor) { addFile(e, rawSocket()) }, codes.PermissionDenied,
			[]string{"raw socket", "CAP_NET_RAW"}},
		"namespace of the node": {func(e *imageEditor) {
			addFile(e, &fdinfo.FileEntry{Type: fdinfo.FdTypes_NS.Enum(),
				Nsf: &ns.NsFileEntry{NsId: proto.Uint32(1), NsCflag: proto.Uint32(0x40000000), Flags: proto.Uint32(0)}})
		}, codes.PermissionDenied, []string{"NS", "namespace"}},
		"established connection": {func(e *imageEditor) {
			editFile(e, func(f *fdinfo.FileEntry) bool { return f.GetIsk().GetSrcPort() == 8081 },
				func(f *fdinfo.FileEntry) { f.Isk.DstPort, f.Isk.State = proto.Uint32(443), proto.Uint32(1) })
		}, codes.PermissionDenied, []string{"connection to port 443", "tcp_connections"}},
		"watch without a path": {func(e *imageEditor) {
			editFile(e, func(f *fdinfo.FileEntry) bool { return f.GetIfy() != nil },
				func(f *fdinfo.FileEntry) { f.Ify.Wd[0].FHandle.Path = nil })
		}, codes.PermissionDenied, []string{"INOTIFY", "has no path"}},
		"descriptor of CRIU": {func(e *imageEditor) {
			editFile(e, func(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == "/proc/meminfo" },
				func(f *fdinfo.FileEntry) { f.Reg.Name = proto.String("/proc/self/fd/1000") })
		}, codes.PermissionDenied, []string{"/proc/self/fd/1000"}},
		"file of another process": {func(e *imageEditor) {
			editFile(e, func(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == "/proc/1/status" },
				func(f *fdinfo.FileEntry) { f.Reg.Name = proto.String("/proc/7000/status") })
		}, codes.PermissionDenied, []string{"/proc/7000/status"}},
		"signals to another process": {func(e *imageEditor) {
			editFile(e, func(f *fdinfo.FileEntry) bool { return f.GetUsk().GetFown().GetPid() == 1 },
				func(f *fdinfo.FileEntry) { f.Usk.Fown.Pid = proto.Uint32(7000) })
		}, codes.PermissionDenied, []string{"owner", "process 7000"}},
		"path out of the root": {func(e *imageEditor) {
			editFile(e, func(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == "/proc/meminfo" },
				func(f *fdinfo.FileEntry) { f.Reg.Name = proto.String("//etc/shadow") })
		}, codes.InvalidArgument, []string{"files.img", "not absolute and clean"}},
		"no files": {func(e *imageEditor) { e.Remove("files.img") }, codes.InvalidArgument, []string{"files.img"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := n.In(t)
			before := n.Inventory(t)
			_, err := pod.TryCreate("kinds", editImages(t, archive, tc.change), workload(kindsOfFiles...), withoutRaw())
			requireRefused(t, err, tc.code, tc.words...)
			n.RequireNoLeak(t, before)
		})
	}
	t.Run("honest", func(t *testing.T) {
		c := pod.Run("kinds", archive, workload(kindsOfFiles...), withoutRaw())
		requireOKContinues(t, c, counted)
	})
}

// TestVerifyClosedConnections: with tcp_connections = "close" a connection is no reason to refuse.
func TestVerifyClosedConnections(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives+"\ntcp_connections = \"close\"\n"))
	img := workloadImage(t, n)
	pod := n.Pod(t)
	c := pod.Run("tcp", img, workload("kinds", "tcp"))
	counted := waitOK(t, c, 3)
	archive := checkpointOf(t, c)
	pod.Remove()
	connected := editImages(t, archive, func(e *imageEditor) {
		editFile(e, func(f *fdinfo.FileEntry) bool { return f.GetIsk().GetSrcPort() == 8081 },
			func(f *fdinfo.FileEntry) { f.Isk.DstPort, f.Isk.State = proto.Uint32(443), proto.Uint32(1) })
	})
	requireOKContinues(t, n.Pod(t).Run("tcp", connected, workload("kinds", "tcp")), counted)
}

// editFile changes the one open file that matches.
func editFile(e *imageEditor, is func(*fdinfo.FileEntry) bool, change func(*fdinfo.FileEntry)) {
	e.t.Helper()
	found := 0
	e.Files(func(all []*fdinfo.FileEntry) []*fdinfo.FileEntry {
		for _, f := range all {
			if is(f) {
				change(f)
				found++
			}
		}
		return all
	})
	if found != 1 {
		e.t.Fatalf("%d open files match, want one", found)
	}
}

// addFile gives the first process another open file. It sets the IDs.
func addFile(e *imageEditor, f *fdinfo.FileEntry) {
	e.t.Helper()
	const id, fd = 900, 900
	f.Id = proto.Uint32(id)
	if f.Isk != nil {
		f.Isk.Id = f.Id
	}
	if f.Nsf != nil {
		f.Nsf.Id = f.Id
	}
	e.Files(func(all []*fdinfo.FileEntry) []*fdinfo.FileEntry { return append(all, f) })
	e.Descriptors(1, func(all []*fdinfo.FdinfoEntry) []*fdinfo.FdinfoEntry {
		return append(all, &fdinfo.FdinfoEntry{Id: f.Id, Flags: proto.Uint32(0), Type: f.Type, Fd: proto.Uint32(fd)})
	})
	if _, err := criu.Entries[*fdinfo.FileEntry](e.Images(), "files.img", "FILES"); err != nil {
		e.t.Fatal(err)
	}
}

func rawSocket() *fdinfo.FileEntry {
	zero, zero64 := proto.Uint32(0), proto.Uint64(0)
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_INETSK.Enum(), Isk: &sk_inet.InetSkEntry{
		Ino: proto.Uint32(90001), Family: proto.Uint32(2), Type: proto.Uint32(3), Proto: proto.Uint32(1),
		State:   proto.Uint32(7),
		SrcPort: zero, DstPort: zero, Flags: proto.Uint32(2), Backlog: zero, SrcAddr: []uint32{0}, DstAddr: []uint32{0},
		Fown: &fown.FownEntry{Uid: zero, Euid: zero, Signum: zero, PidType: zero, Pid: zero},
		Opts: &sk_opts.SkOptsEntry{SoSndbuf: zero, SoRcvbuf: zero, SoSndTmoSec: zero64, SoSndTmoUsec: zero64,
			SoRcvTmoSec: zero64, SoRcvTmoUsec: zero64},
	}}
}
