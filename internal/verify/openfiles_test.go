package verify

import (
	"maps"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/eventpoll"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fh"
	file_lock "github.com/checkpoint-restore/go-criu/v7/crit/images/file-lock"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fs"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fsnotify"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/memfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/ns"
	pipe_data "github.com/checkpoint-restore/go-criu/v7/crit/images/pipe-data"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/tun"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// filesCase is a set of files of a process and what is said of it.
type filesCase struct {
	files  []*fdinfo.FileEntry
	images map[string]string // in the place of, or beside, those of the files
	spec   func(*specs.Spec)
	rules  Rules
	// finds are words of the one finding, invalid those of the error. Without either the files are accepted.
	finds, invalid string
}

// withoutCaps takes capabilities away, and with no_new_privs all ways to come to them.
func withoutCaps(names ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		for _, name := range names {
			for i, c := range s.Process.Capabilities.Bounding {
				if c == name {
					s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding[:i:i], s.Process.Capabilities.Bounding[i+1:]...)
				}
			}
		}
		s.Process.Capabilities.Permitted, s.Process.Capabilities.Effective = s.Process.Capabilities.Bounding, s.Process.Capabilities.Bounding
	}
}

func filesSpec(change func(*specs.Spec)) *specs.Spec {
	s := podSpec()
	all := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Permitted: all, Effective: all}
	if change != nil {
		change(s)
	}
	return s
}

// openFilesOf compares open files with a spec, in both phases.
func openFilesOf(t *testing.T, images map[string]string, spec *specs.Spec, rules Rules) (*Report, error) {
	t.Helper()
	return openFilesIn(t, t.TempDir(), images, spec, rules)
}

// openFilesIn is openFilesOf with a root file system.
func openFilesIn(t *testing.T, root string, images map[string]string, spec *specs.Spec, rules Rules) (*Report, error) {
	t.Helper()
	s := subjectOf(t, stage(t, merged(criutest.Tasks(criutest.Task{PID: 1}), images), spec, root), spec, rules)
	report := &Report{}
	v, err := newVerifier(t.Context(), s, report)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.openFiles(); err != nil {
		return report, err
	}
	return report, inContainer(t, s, root, report, (*container).paths, (*container).deadProcesses, (*container).deleted, (*container).sockets, (*container).ttys)
}

func testFiles(t *testing.T, cases map[string]filesCase) {
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			images := criutest.Files(c.files...)
			maps.Copy(images, c.images)
			report, err := openFilesOf(t, images, filesSpec(c.spec), c.rules)
			switch {
			case c.invalid != "":
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.invalid) {
					t.Errorf("error %v, want invalid argument that says %q", err, c.invalid)
				}
			case err != nil:
				t.Errorf("cannot be read: %v", err)
			case c.finds == "" && report.Total != 0:
				t.Errorf("refused: %v", report.Err())
			case c.finds != "" && (report.Total != 1 || report.ByCheck["files"] != 1 || !strings.Contains(report.Err().Error(), c.finds)):
				t.Errorf("%d findings, want one that says %q: %v", report.Total, c.finds, report.Err())
			}
		})
	}
}

func owned(pid, kind, uid uint32) func(*regfile.RegFileEntry) {
	return func(e *regfile.RegFileEntry) {
		e.Fown = &fown.FownEntry{Uid: &uid, Euid: &uid, Signum: proto.Uint32(0), PidType: &kind, Pid: &pid}
	}
}

func TestOpenFiles(t *testing.T) {
	file := func(change ...func(*regfile.RegFileEntry)) []*fdinfo.FileEntry {
		return []*fdinfo.FileEntry{criutest.Regular(9, "/data/file", 0o100644, change...)}
	}
	two := file()[0]
	two.Reg.Id = proto.Uint32(8)
	bodies := file()[0]
	bodies.Nsf = namespaceFile(2, unix.CLONE_NEWNET).Nsf
	wrong := file()[0]
	wrong.Type = fdinfo.FdTypes_PIPE.Enum()
	unknown := file()[0]
	unknown.Type = fdinfo.FdTypes(21).Enum()
	table := func(entries ...proto.Message) map[string]string {
		return map[string]string{"fdinfo-2.img": criutest.Image("FDINFO", entries...)}
	}
	f := file()[0]
	labelled := criutest.Descriptor(3, f)
	stdout := &fdinfo.FdinfoEntry{Id: proto.Uint32(4), Flags: proto.Uint32(0), Type: fdinfo.FdTypes_PIPE.Enum(), Fd: proto.Uint32(1)}
	labelled.XattrSecuritySelinux = proto.String("system_u:system_r:spc_t:s0")
	testFiles(t, map[string]filesCase{
		"nothing":             {},
		"a file":              {files: file()},
		"two IDs":             {files: []*fdinfo.FileEntry{two}, invalid: "two IDs"},
		"an ID twice":         {files: append(file(), file()...), invalid: "there are two files 9"},
		"two bodies":          {files: []*fdinfo.FileEntry{bodies}, invalid: "what its type needs"},
		"another type's body": {files: []*fdinfo.FileEntry{wrong}, invalid: "what its type needs"},
		"unknown type":        {files: []*fdinfo.FileEntry{unknown}, invalid: "type 21 is unknown"},
		"no files.img":        {images: map[string]string{"files.img": ""}, invalid: "files.img"},
		"no descriptors":      {images: map[string]string{"fdinfo-2.img": ""}, invalid: "fdinfo-2.img"},
		"descriptor of none":  {images: table(criutest.Descriptor(0, f)), invalid: "there is no file 9"},
		"descriptor twice":    {files: file(), images: table(criutest.Descriptor(3, f), criutest.Descriptor(3, f)), invalid: "two descriptors 3"},
		"nobody's pipe":       {images: table(), invalid: "no process has file 4 (PIPE)"},
		"SELinux label":       {files: file(), images: table(labelled, stdout), finds: "spc_t"},
		"the pod's SELinux label": {files: file(), images: table(labelled, stdout),
			spec: func(s *specs.Spec) { s.Process.SelinuxLabel = "system_u:system_r:spc_t:s0" }},
		"creates":           {files: file(func(e *regfile.RegFileEntry) { e.Flags = proto.Uint32(unix.O_RDWR | unix.O_CREAT) }), finds: "create or truncate"},
		"truncates":         {files: file(func(e *regfile.RegFileEntry) { e.Flags = proto.Uint32(unix.O_RDWR | unix.O_TRUNC) }), finds: "create or truncate"},
		"makes a nameless":  {files: file(func(e *regfile.RegFileEntry) { e.Flags = proto.Uint32(unix.O_RDWR | unix.O_TMPFILE) }), finds: "create or truncate"},
		"appends":           {files: file(func(e *regfile.RegFileEntry) { e.Flags = proto.Uint32(unix.O_WRONLY | unix.O_APPEND | unix.O_NONBLOCK) })},
		"external":          {files: file(func(e *regfile.RegFileEntry) { e.Ext = proto.Bool(true); e.Name = proto.String("file[1:2]") }), finds: "an external file"},
		"owner":             {files: file(owned(1, 1, 0))},
		"owner of a group":  {files: file(owned(1, 2, 0))},
		"owner elsewhere":   {files: file(owned(77, 1, 0)), finds: "owner: found process 77"},
		"group elsewhere":   {files: file(owned(77, 2, 0)), finds: "owner: found process 77"},
		"owner of no kind":  {files: file(owned(1, 9, 0)), invalid: "its owner is"},
		"another's signals": {files: file(owned(1, 1, 4711)), spec: withoutCaps("CAP_KILL", "CAP_SETUID"), finds: "4711"},
		"may be anybody":    {files: file(owned(1, 1, 4711))},
		"TUN":               {files: []*fdinfo.FileEntry{{Type: fdinfo.FdTypes_TUNF.Enum(), Id: proto.Uint32(9), Tunf: &tun.TunfileEntry{Id: proto.Uint32(9)}}}, finds: "TUNF"},
		"a process":         {files: []*fdinfo.FileEntry{criutest.PIDFile(9, 1)}},
		"an ended process":  {files: []*fdinfo.FileEntry{criutest.PIDFile(9, -1)}},
		"another's process": {files: []*fdinfo.FileEntry{criutest.PIDFile(9, 77)}, finds: "process: found 77"},
		"the own namespace": {files: []*fdinfo.FileEntry{namespaceFile(21, unix.CLONE_NEWNET)}, images: ownIDs()},
		"another namespace": {files: []*fdinfo.FileEntry{namespaceFile(99, unix.CLONE_NEWNET)}, images: ownIDs(), finds: "namespace: found 99"},
		"of another kind":   {files: []*fdinfo.FileEntry{namespaceFile(21, unix.CLONE_NEWUTS)}, images: ownIDs(), finds: "namespace: found 21"},
		"a clock":           {files: []*fdinfo.FileEntry{timerFile(unix.CLOCK_MONOTONIC)}},
		"an alarm clock":    {files: []*fdinfo.FileEntry{timerFile(unix.CLOCK_BOOTTIME_ALARM)}, finds: "CAP_WAKE_ALARM"},
		"an allowed alarm":  {files: []*fdinfo.FileEntry{timerFile(unix.CLOCK_BOOTTIME_ALARM)}, spec: func(s *specs.Spec) { withCaps(s, "CAP_WAKE_ALARM") }},
		"waits for its own": {files: []*fdinfo.FileEntry{epollOf(0)}},
		"waits for CRIU's":  {files: []*fdinfo.FileEntry{epollOf(1023)}, invalid: "descriptor 1023"},
		"keeps awake":       {files: []*fdinfo.FileEntry{epollOf(0, unix.EPOLLIN|unix.EPOLLWAKEUP)}, finds: "CAP_BLOCK_SUSPEND"},
		"may keep awake": {files: []*fdinfo.FileEntry{epollOf(0, unix.EPOLLIN|unix.EPOLLWAKEUP)},
			spec: func(s *specs.Spec) { withCaps(s, "CAP_BLOCK_SUSPEND") }},
		"other events":        {files: []*fdinfo.FileEntry{epollOf(0, 0xffffffff&^unix.EPOLLWAKEUP)}},
		"watches":             {files: []*fdinfo.FileEntry{watchOf("/data", criutest.RootMount)}},
		"watches a handle":    {files: []*fdinfo.FileEntry{watchOf("", criutest.RootMount)}, finds: "which has no path"},
		"watches nowhere":     {files: []*fdinfo.FileEntry{watchOf("/data", 9)}, invalid: "in no mount"},
		"watches CRIU's":      {files: []*fdinfo.FileEntry{watchOf("/proc/self/fd/1000/etc", criutest.ProcMount)}, finds: "/proc/self"},
		"in memory":           {files: []*fdinfo.FileEntry{inMemory(1)}, images: memoryInode(0o100777, 0)},
		"in memory, missing":  {files: []*fdinfo.FileEntry{inMemory(2)}, images: memoryInode(0o100777, 0), invalid: "there is no file 2"},
		"in memory, setuid":   {files: []*fdinfo.FileEntry{inMemory(1)}, images: memoryInode(0o104777, 0), finds: "set-user-ID"},
		"in memory, flags":    {files: []*fdinfo.FileEntry{inMemory(1)}, images: memoryInode(0o100777, 0x10), invalid: "flags 0x10"},
		"in memory, huge":     {files: []*fdinfo.FileEntry{inMemory(1)}, images: memoryInode(0o100777, unix.MFD_HUGETLB|21<<unix.MFD_HUGE_SHIFT)},
		"in the pipe":         {images: pipeOf(7001, 4, 65536, "left")},
		"in no pipe":          {images: pipeOf(7002, 4, 65536, "left"), invalid: "pipe 7002 is unknown"},
		"cut off":             {images: pipeOf(7001, 4, 65536, "le"), invalid: "ends within"},
		"larger than allowed": {images: pipeOf(7001, 4, 1<<30, "left"), finds: "fs.pipe-max-size"},
		"locks":               {files: file(), images: lockOf(1, 2, 1)},
		"locks nothing":       {files: file(), images: lockOf(1, 1000, 1), invalid: "no descriptor 1000"},
		"another's lock":      {files: file(), images: lockOf(77, 2, 1), invalid: "process 77"},
		"an unknown lock":     {files: file(), images: lockOf(1, 2, 3), invalid: "unknown kind 3"},
		"a lease":             {files: file(), images: lockOf(1, 2, 8), finds: "CAP_LEASE"},
		"an allowed lease":    {files: file(), images: lockOf(1, 2, 8), spec: func(s *specs.Spec) { withCaps(s, "CAP_LEASE") }},
		"in a directory":      {files: []*fdinfo.FileEntry{criutest.Regular(9, "/data", 0o40755)}, images: inDirectory(9, 2)},
		"in no directory":     {files: file(), images: inDirectory(9, 2), invalid: "no directory"},
		"in no file":          {images: inDirectory(77, 2), invalid: "no directory"},
		"another root":        {files: []*fdinfo.FileEntry{criutest.Regular(9, "/data", 0o40755)}, images: inDirectory(9, 9)},
		"another root, not allowed": {files: []*fdinfo.FileEntry{criutest.Regular(9, "/data", 0o40755)}, images: inDirectory(9, 9),
			spec: withoutCaps("CAP_SYS_CHROOT"), finds: "CAP_SYS_CHROOT"},
	})
}

func inDirectory(cwd, root uint32) map[string]string {
	return map[string]string{"fs-1.img": criutest.Image("FS", &fs.FsEntry{CwdId: &cwd, RootId: &root, Umask: proto.Uint32(0)})}
}

func withCaps(s *specs.Spec, names ...string) {
	c := s.Process.Capabilities
	c.Bounding, c.Permitted = append(c.Bounding, names...), append(c.Permitted, names...)
}

// ownIDs gives every namespace an ID of its own: 20 for PIDs, 21 for the network and so on.
func ownIDs() map[string]string {
	e := criutest.IDs(2, specs.UserNamespace)
	for i, id := range []**uint32{&e.PidNsId, &e.NetNsId, &e.IpcNsId, &e.UtsNsId} {
		*id = proto.Uint32(20 + uint32(i))
	}
	return map[string]string{"ids-1.img": criutest.Image("IDS", e)}
}

func namespaceFile(id, kind uint32) *fdinfo.FileEntry {
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_NS.Enum(), Id: proto.Uint32(9),
		Nsf: &ns.NsFileEntry{Id: proto.Uint32(9), NsId: &id, NsCflag: &kind, Flags: proto.Uint32(0)}}
}

func timerFile(clock uint32) *fdinfo.FileEntry {
	zero := proto.Uint64(0)
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_TIMERFD.Enum(), Id: proto.Uint32(9), Tfd: &timerfd.TimerfdEntry{
		Id: proto.Uint32(9), Flags: proto.Uint32(2), Fown: criutest.NoOwner(), Clockid: &clock, Ticks: zero, SettimeFlags: proto.Uint32(0),
		Vsec: zero, Vnsec: zero, Isec: zero, Insec: zero,
	}}
}

func epollOf(fd uint32, events ...uint32) *fdinfo.FileEntry {
	events = append(events, unix.EPOLLIN)
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_EVENTPOLL.Enum(), Id: proto.Uint32(9), Epfd: &eventpoll.EventpollFileEntry{
		Id: proto.Uint32(9), Flags: proto.Uint32(2), Fown: criutest.NoOwner(),
		Tfd: []*eventpoll.EventpollTfdEntry{{Id: proto.Uint32(0), Tfd: &fd, Events: &events[0], Data: proto.Uint64(0)}},
	}}
}

func watchOf(name string, mount uint32) *fdinfo.FileEntry {
	h := &fh.FhEntry{Bytes: proto.Uint32(12), Type: proto.Uint32(1), Handle: make([]uint64, 16), MntId: &mount}
	if name != "" {
		h.Path = &name
	}
	zero := proto.Uint32(0)
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_INOTIFY.Enum(), Id: proto.Uint32(9), Ify: &fsnotify.InotifyFileEntry{
		Id: proto.Uint32(9), Flags: zero, Fown: criutest.NoOwner(),
		Wd: []*fsnotify.InotifyWdEntry{{Id: zero, IIno: proto.Uint64(2), Mask: proto.Uint32(256), IgnoredMask: zero, SDev: zero, Wd: proto.Uint32(1), FHandle: h}},
	}}
}

func inMemory(inode uint32) *fdinfo.FileEntry {
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_MEMFD.Enum(), Id: proto.Uint32(9), Memfd: &memfd.MemfdFileEntry{
		Id: proto.Uint32(9), Flags: proto.Uint32(2), Pos: proto.Uint64(0), Fown: criutest.NoOwner(), InodeId: &inode,
	}}
}

func memoryInode(mode uint64, flags uint32) map[string]string {
	zero := proto.Uint32(0)
	e := &memfd.MemfdInodeEntry{Name: proto.String("m"), Uid: zero, Gid: zero, Size: proto.Uint64(4096), Shmid: proto.Uint32(7), Seals: proto.Uint32(2), InodeId: proto.Uint64(1)}
	if flags != 0 {
		e.HugetlbFlag = &flags
	}
	criutest.Later(e, memfdMode, mode)
	return map[string]string{"memfd.img": criutest.Image("MEMFD_INODE", e)}
}

func pipeOf(id, bytes, size uint32, data string) map[string]string {
	return map[string]string{"pipes-data.img": criutest.WithData("PIPES_DATA", &pipe_data.PipeDataEntry{PipeId: &id, Bytes: &bytes, Size: &size}, data)}
}

func lockOf(pid, fd int32, kind uint32) map[string]string {
	return map[string]string{"filelocks.img": criutest.Image("FILE_LOCKS", &file_lock.FileLockEntry{
		Flag: &kind, Type: proto.Uint32(1), Pid: &pid, Fd: &fd, Start: proto.Int64(0), Len: proto.Int64(0),
	})}
}
