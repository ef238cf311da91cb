package verify

import (
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fifo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	sk_packet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-packet"
	sk_unix "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-unix"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// accessTree makes the files that the cases are about. They belong to root if nothing else is said.
func accessTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	// The parents of the directory are the host's, and closed to others.
	for _, f := range []struct {
		name string
		mode uint32
		uid  int
		gid  int
	}{
		{".", unix.S_IFDIR | 0o755, 0, 0},
		{"all", 0o644, 0, 0}, {"secret", 0o600, 0, 0}, {"group", 0o640, 0, 2000}, {"own", 0o400, 1000, 1000}, {"other", 0o600, 1001, 1001},
		{"listed", 0o600, 0, 0}, {"denied", 0o644, 0, 0}, {"run", 0o711, 0, 0}, {"writable", 0o666, 0, 0}, {"drop", 0o222, 0, 0},
		{"fifo", unix.S_IFIFO | 0o600, 0, 0}, {"device", unix.S_IFCHR | 0o600, 0, 0},
		{"closed", unix.S_IFDIR | 0o700, 0, 0}, {"closed/all", 0o644, 0, 0},
		{"hidden", unix.S_IFDIR | 0o711, 0, 0}, {"hidden/all", 0o644, 0, 0},
		{"mine", unix.S_IFDIR | 0o755, 1000, 1000}, {"mine/secret", 0o600, 0, 0},
		{"tmp", unix.S_IFDIR | 0o1777, 0, 0}, {"tmp/other.sock", 0o755, 1001, 1001}, {"tmp/own.sock", 0o755, 1000, 1000}, {"tmp/taken.criu-sk-ghost", 0o755, 1001, 1001},
	} {
		name := filepath.Join(dir, f.name)
		var err error
		switch f.mode & unix.S_IFMT {
		case unix.S_IFDIR:
			err = os.MkdirAll(name, 0o700)
		case unix.S_IFIFO:
			err = unix.Mkfifo(name, 0o600)
		case unix.S_IFCHR:
			err = unix.Mknod(name, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))
		default:
			err = os.WriteFile(name, []byte("x"), 0o600)
		}
		if err == nil {
			err = unix.Chown(name, f.uid, f.gid)
		}
		if err == nil {
			err = unix.Chmod(name, f.mode&0o7777)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("all", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for name, bits := range map[string]uint16{"listed": 4, "denied": 0} {
		if err := unix.Setxattr(filepath.Join(dir, name), "system.posix_acl_access", listFor(1000, bits), 0); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// listFor is an access control list by which a user has these bits (acl(5), linux/posix_acl_xattr.h).
func listFor(uid uint32, bits uint16) []byte {
	const none = 1<<32 - 1
	out := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, bits uint16
		id        uint32
	}{{0x01, 6, none}, {0x02, bits, uid}, {0x04, 4, none}, {0x10, 4, none}, {0x20, 4 &^ bits, none}} {
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.bits)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	return out
}

// accessSpec is what a restricted pod has: user 1000 and no capabilities.
func accessSpec() *specs.Spec {
	s := podSpec()
	s.Mounts = []specs.Mount{{Destination: "/proc", Type: "proc"}, {Destination: "/dev", Type: "tmpfs"}}
	s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000, 2000}}
	s.Process.NoNewPrivileges, s.Process.Capabilities = true, &specs.LinuxCapabilities{}
	return s
}

func accessTo(t *testing.T, spec *specs.Spec, root string, images ...map[string]string) (*Report, error) {
	t.Helper()
	all := merged(append([]map[string]string{criutest.Checkpoint(criutest.Task{PID: 1})}, images...)...)
	report := &Report{}
	return report, inContainer(t, subjectOf(t, stage(t, all, spec, root), spec, Rules{}), root, report,
		(*container).paths, (*container).sockets, (*container).access)
}

// mappedAs maps a file instead of the program, and is run as one.
func mappedAs(status uint32, flags uint32, prot uint32) map[string]string {
	return criutest.Memory(1, 1, nil, criutest.Mapping(criutest.Text, 1, func(e *vma.VmaEntry) {
		e.Status, e.Fdflags, e.Prot, e.Shmid = &status, &flags, &prot, proto.Uint64(9)
	}))
}

// programIs makes a file the program.
func programIs(id uint32) map[string]string {
	files := criutest.Memory(1, 1, nil, criutest.Mapping(criutest.Heap, 1))
	change(files, "mm-1.img", "MM", func(e *mm.MmEntry) { e.ExeFileId = &id })
	return files
}

// undescribed are images, and no descriptors.
func undescribed(images ...map[string]string) map[string]string {
	return merged(append(images, map[string]string{"fdinfo-2.img": criutest.Image("FDINFO")})...)
}

// inMessage has a file in a message to the socket 8.
func inMessage(id uint32) map[string]string {
	kind := uint32(unix.SCM_RIGHTS)
	return map[string]string{"sk-queues.img": criutest.WithData("SK_QUEUES", &sk_packet.SkPacketEntry{
		IdFor: proto.Uint32(8), Length: proto.Uint32(1), Scm: []*sk_packet.ScmEntry{{Type: &kind, Rights: []uint32{id}}},
	}, "x")}
}

// fifoAt is a named pipe, which has two entries.
func fifoAt(name string) []*fdinfo.FileEntry {
	return []*fdinfo.FileEntry{
		criutest.Regular(8, name, 0o10600),
		{Type: fdinfo.FdTypes_FIFO.Enum(), Id: proto.Uint32(9), Fifo: &fifo.FifoEntry{Id: proto.Uint32(9), PipeId: proto.Uint32(7), RegfId: proto.Uint32(8)}},
	}
}

// asRootWith gives a user one capability, and a way to it.
func asRootWith(capability string, uid uint32) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Process.User, s.Process.NoNewPrivileges = specs.User{UID: uid, GID: uid}, false
		set := []string{capability}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: set, Permitted: set, Effective: set}
	}
}

func TestAccess(t *testing.T) {
	root := accessTree(t)
	reg := func(name string, flags uint32) []*fdinfo.FileEntry {
		return regularAt(name, 0o100644, criutest.RootMount, flags)
	}
	dir := func(name string) []*fdinfo.FileEntry {
		return regularAt(name, 0o40755, criutest.RootMount, unix.O_DIRECTORY)
	}
	socket := func(name string) []*fdinfo.FileEntry { return []*fdinfo.FileEntry{criutest.UnixSocket(9, 0, name)} }
	gone := func(name string) []*fdinfo.FileEntry {
		return []*fdinfo.FileEntry{criutest.UnixSocket(9, 0, name, func(e *sk_unix.UnixSkEntry) { e.Deleted = proto.Bool(true) })}
	}
	deleted := func(name string) ([]*fdinfo.FileEntry, map[string]string) {
		return reg(name, 0), remaps(9, 1, remapGhost)
	}
	const read, write, both = unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR
	type access struct {
		files  []*fdinfo.FileEntry
		images map[string]string
		spec   func(*specs.Spec)
		finds  string
	}
	cases := map[string]access{
		"read":                             {files: reg("/all", read)},
		"read a secret":                    {files: reg("/secret", read), finds: "open for reading /secret, allowed what user 1000 of the pod may open: owner 0:0, mode 0600"},
		"only its name":                    {files: reg("/secret", unix.O_PATH)},
		"write":                            {files: reg("/writable", write)},
		"write what may be read":           {files: reg("/all", write), finds: "open for writing /all"},
		"read and write":                   {files: reg("/writable", both)},
		"read and write, may read":         {files: reg("/all", both), finds: "open for reading and writing /all"},
		"read and write, may write":        {files: reg("/drop", both), finds: "open for reading and writing /drop"},
		"append":                           {files: reg("/drop", write|unix.O_APPEND)},
		"no access mode is both":           {files: reg("/drop", 3), finds: "open for reading and writing /drop"},
		"group":                            {files: reg("/group", read)},
		"group, not a member":              {files: reg("/group", read), spec: func(s *specs.Spec) { s.Process.User.AdditionalGids = nil }, finds: "mode 0640"},
		"group is the first":               {files: reg("/group", read), spec: func(s *specs.Spec) { s.Process.User.GID, s.Process.User.AdditionalGids = 2000, nil }},
		"group may not write":              {files: reg("/group", write), finds: "mode 0640"},
		"own":                              {files: reg("/own", both)}, // before it took the right away from itself
		"own, cannot be changed":           {files: reg("/own", both), spec: func(s *specs.Spec) { s.Root.Readonly = true }, finds: "open for reading and writing /own"},
		"own, not to be changed":           {files: reg("/own", read), spec: func(s *specs.Spec) { s.Root.Readonly = true }},
		"other user's":                     {files: reg("/other", read), finds: "owner 1001:1001"},
		"access list":                      {files: reg("/listed", read)},
		"access list, write":               {files: reg("/listed", write), finds: "open for writing /listed"},
		"access list, other user":          {files: reg("/listed", read), spec: func(s *specs.Spec) { s.Process.User.UID = 1002 }, finds: "user 1002"},
		"access list that denies":          {files: reg("/denied", read), finds: "open for reading /denied"},
		"below a closed directory":         {files: reg("/closed/all", read), finds: "/closed: owner 0:0, mode 0700"},
		"its name below a closed one":      {files: reg("/closed/all", unix.O_PATH), finds: "/closed: owner 0:0, mode 0700"},
		"absent below a closed one":        {files: reg("/closed/none", read), finds: "/closed: owner 0:0, mode 0700"},
		"below a hidden directory":         {files: reg("/hidden/all", read)},
		"a directory":                      {files: dir("/mine")},
		"a hidden directory":               {files: dir("/hidden"), finds: "open for reading /hidden"},
		"absent":                           {files: reg("/none", both)},
		"below a file":                     {files: reg("/all/none", both), finds: "/all: owner 0:0, mode 0644"},
		"symbolic link":                    {files: reg("/link", read), finds: "the symbolic link /link"},
		"symbolic link itself":             {files: regularAt("/link", 0o120777, criutest.RootMount, unix.O_PATH|unix.O_NOFOLLOW)},
		"device":                           {files: regularAt("/device", 0o20600, criutest.RootMount, both), finds: "/device"},
		"named pipe":                       {files: fifoAt("/fifo"), images: undescribed(), finds: "/fifo"},
		"nobody has it open":               {files: reg("/secret", read), images: undescribed(), finds: "open for reading /secret"},
		"in a message":                     {files: append(reg("/run", read), criutest.UnixSocket(8, 0, "")), images: undescribed(inMessage(9), programIs(9)), finds: "open for reading /run"},
		"working directory":                {files: dir("/mine"), images: inDirectory(9, 2)},
		"hidden working directory":         {files: regularAt("/hidden", 0o40711, criutest.RootMount, unix.O_PATH), images: inDirectory(9, 2)},
		"closed working directory":         {files: regularAt("/closed", 0o40700, criutest.RootMount, unix.O_PATH), images: inDirectory(9, 2), finds: "a process in /closed"},
		"closed root":                      {files: regularAt("/closed", 0o40700, criutest.RootMount, unix.O_PATH), images: inDirectory(2, 9), finds: "a process in /closed"},
		"mapped":                           {files: reg("/all", read), images: undescribed(mappedAs(areaRegular|areaFilePrivate, read, 7))},
		"mapped secret":                    {files: reg("/secret", read), images: undescribed(mappedAs(areaRegular|areaFilePrivate, read, 1)), finds: "open for reading /secret"},
		"mapped program":                   {files: reg("/run", read), images: undescribed(mappedAs(areaRegular|areaFilePrivate, read, 5)), finds: "open for reading /run"},
		"mapped and written":               {files: reg("/writable", read), images: undescribed(mappedAs(areaRegular|areaFileShared, both, 3))},
		"mapped and not to be":             {files: reg("/all", read), images: undescribed(mappedAs(areaRegular|areaFileShared, both, 3)), finds: "open for reading and writing /all"},
		"program":                          {files: reg("/run", read), images: undescribed(programIs(9))},
		"secret program":                   {files: reg("/secret", read), images: undescribed(programIs(9)), finds: "executing /secret"},
		"watched":                          {files: []*fdinfo.FileEntry{watchOf("/mine", criutest.RootMount)}},
		"watched secret":                   {files: []*fdinfo.FileEntry{watchOf("/hidden", criutest.RootMount)}, finds: "watching /hidden"},
		"socket":                           {files: socket("/mine/a.sock")},
		"socket in root's directory":       {files: socket("/a.sock"), finds: "making /a.sock"},
		"socket through a link":            {files: socket("/link/../a.sock"), finds: "making /a.sock"},
		"socket in place of another":       {files: socket("/tmp/other.sock"), finds: "only the owner may remove it"},
		"socket in place of its own":       {files: socket("/tmp/own.sock")},
		"deleted socket":                   {files: gone("/tmp/new.sock")},
		"deleted socket, beside another's": {files: gone("/tmp/taken"), finds: "/tmp/taken.criu-sk-ghost"},
		"socket, new":                      {files: socket("/tmp/new.sock")},
		"socket of no path":                {files: socket("\x00a.sock")},
		"tmpfs":                            {files: regularAt("/dev/x", 0o100600, criutest.DevMount, both)},
		"procfs":                           {files: regularAt("/proc/1/stat", 0o100444, criutest.ProcMount, read)},
		"may override": {files: reg("/secret", both), spec: func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_DAC_OVERRIDE"}}
			s.Process.NoNewPrivileges = false
		}},
		"might, but for no_new_privs": {files: reg("/secret", both), spec: func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_DAC_OVERRIDE"}}
		}, finds: "/secret"},
		"may read all":               {files: reg("/closed/all", read), spec: asRootWith("CAP_DAC_READ_SEARCH", 1000)},
		"may read all, writes":       {files: reg("/other", both), spec: asRootWith("CAP_DAC_READ_SEARCH", 0), finds: "/other"},
		"may read all, reads":        {files: reg("/other", read), spec: asRootWith("CAP_DAC_READ_SEARCH", 0)},
		"root without capabilities":  {files: reg("/secret", both), spec: asRootWith("CAP_KILL", 0)},
		"root, other user's":         {files: reg("/other", read), spec: asRootWith("CAP_KILL", 0), finds: "user 0"},
		"root that can be anybody":   {files: reg("/other", both), spec: asRootWith("CAP_SETUID", 0)},
		"anybody, whom it is closed": {files: reg("/own", both), spec: func(s *specs.Spec) { asRootWith("CAP_SETUID", 0)(s); s.Root.Readonly = true }, finds: "/own"},
		"root that can own it":       {files: reg("/other", both), spec: asRootWith("CAP_FOWNER", 0)},
		"root that can take it":      {files: reg("/other", both), spec: asRootWith("CAP_CHOWN", 0)},
	}
	for name, path := range map[string]string{"": "/mine/gone", " in a deleted directory": "/mine/x/gone"} {
		files, images := deleted(path)
		cases["deleted"+name] = access{files: files, images: images}
	}
	files, images := deleted("/gone")
	cases["deleted in root's directory"] = access{files: files, images: images, finds: "making /gone"}
	for name, c := range map[string]struct{ link, finds string }{
		"linked": {"/tmp/own.sock", ""}, "linked secret": {"/mine/secret", "open for reading /mine/secret"}, "linked elsewhere": {"/all", "removing /all"},
	} {
		cases[name] = access{files: append(reg("/mine/gone", 0), criutest.Regular(8, c.link, 0o100644)), finds: c.finds,
			images: merged(remaps(9, 8, remapLink), map[string]string{"fdinfo-2.img": criutest.Image("FDINFO", criutest.Descriptor(3, reg("/mine/gone", 0)[0]))})}
	}
	chain := cases["linked secret"]
	chain.images = merged(chain.images, map[string]string{remapImage: remaps(9, 8, remapLink)[remapImage] +
		remaps(8, 5, remapGhost)[remapImage][len(criutest.Image("REMAP_FPATH")):]})
	cases["linked secret, as if deleted too"] = chain
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			spec := accessSpec()
			if c.spec != nil {
				c.spec(spec)
			}
			images := criutest.Files(c.files...)
			maps.Copy(images, c.images)
			report, err := accessTo(t, spec, root, images)
			requireFinding(t, report, err, c.finds)
		})
	}
}

// TestAccessMalformed has names that CRIU would not have written.
func TestAccessMalformed(t *testing.T) {
	root := accessTree(t)
	for name, files := range map[string][]*fdinfo.FileEntry{
		"relative": regularAt("all", 0o100644, criutest.RootMount, 0), "upwards": regularAt("/../all", 0o100644, criutest.RootMount, 0),
		"watch": {watchOf("/mine/../secret", criutest.RootMount)},
	} {
		if report, err := accessTo(t, accessSpec(), root, criutest.Files(files...)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: error %v, findings %v, want invalid argument", name, err, report.Err())
		}
	}
}
