package verify

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// mountsSpec is the spec of the container whose mounts are criutest.Mounts.
func mountsSpec() *specs.Spec {
	bind := func(dst, option string) specs.Mount {
		return specs.Mount{Destination: dst, Type: "bind", Source: "/node" + dst, Options: []string{"rbind", "rprivate", option}}
	}
	return &specs.Spec{
		Process: &specs.Process{},
		Root:    &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
			bind("/etc/hosts", "rw"), bind("/data/", "rw"), bind("/secret", "ro"), bind("/dev/shm", "rw"),
		},
		Linux: &specs.Linux{Devices: []specs.LinuxDevice{
			{Path: "/dev/sda", Type: "b", Major: 8, Minor: 0, FileMode: fileMode(0o600)},
		}},
	}
}

func fileMode(m os.FileMode) *os.FileMode { return &m }

// aNode replaces the node: cgroup v1, and these files below /proc and /sys.
func aNode(t *testing.T, files ...string) {
	t.Helper()
	node := fstest.MapFS{}
	for _, f := range files {
		if dir, ok := strings.CutSuffix(f, "/"); ok {
			node[dir[1:]] = &fstest.MapFile{Mode: fs.ModeDir | 0o555}
		} else {
			node[f[1:]] = &fstest.MapFile{}
		}
	}
	stat, unified, statfs := statNode, unifiedNode, statfsNode
	t.Cleanup(func() { statNode, unifiedNode, statfsNode = stat, unified, statfs })
	statNode = func(name string) (os.FileInfo, error) { return fs.Stat(node, name[1:]) }
	unifiedNode = func() bool { return false }
}

// checkMounts compares mounts with a spec. It returns what CRIU would read, by path.
func checkMounts(t *testing.T, files map[string]string, spec *specs.Spec) (*verifier, map[string]*mnt.MntEntry, error) {
	t.Helper()
	return checkMountsIn(t, files, spec, map[string]string{"var/run": "/run"})
}

// checkMountsIn is checkMounts with these links in the root file system.
func checkMountsIn(t *testing.T, files map[string]string, spec *specs.Spec, links map[string]string) (*verifier, map[string]*mnt.MntEntry, error) {
	t.Helper()
	all := criutest.Images(criutest.Processes{1: {specs.UserNamespace}})
	maps.Copy(all, files)
	v, err := verifierOf(t, merged(all, criutest.Tasks(criutest.Task{PID: 1})), spec)
	if err != nil {
		t.Fatal(err)
	}
	images := v.images
	if _, err := v.mountpoints(&place.Mount{At: "/", Kind: place.Root, Contents: &place.Contents{Links: links}}); err != nil {
		return v, nil, err
	}
	if v.report.Unreadable != nil {
		return v, nil, v.report.Unreadable
	}
	replaced := map[string]string{}
	for name, data := range v.report.Replaced {
		if images, ok := images.Size(name); !ok {
			t.Errorf("image %s (%d bytes) is replaced and was not there: nothing can be mounted over it", name, images)
		}
		replaced[name] = string(data)
	}
	again, err := criu.OpenImages(write(t, replaced))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	entries, err := criu.Entries[*mnt.MntEntry](again, "mountpoints-2.img", "MNTS")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*mnt.MntEntry{}
	for _, e := range entries {
		out[e.GetMountpoint()] = e
	}
	return v, out, nil
}

func requireMounts(t *testing.T, v *verifier, err error, says string) {
	t.Helper()
	switch {
	case err != nil:
		t.Error(err)
	case says == "" && v.report.Total != 0:
		t.Errorf("refused: %v", v.report.Err())
	case says != "" && (v.report.Total == 0 || !strings.Contains(v.report.Err().Error(), says)):
		t.Errorf("got %v, want findings that say %q", v.report.Err(), says)
	}
}

func mountFiles(mounts []*mnt.MntEntry) map[string]string {
	return criutest.MountImages(mounts, criutest.DevFiles(), criutest.CgroupFiles())
}

// changed returns the mounts with one of them changed; nil takes it away.
func changed(p string, change func(*mnt.MntEntry)) []*mnt.MntEntry {
	all := criutest.Mounts()
	i := slices.IndexFunc(all, func(m *mnt.MntEntry) bool { return m.GetMountpoint() == p })
	if change == nil {
		return slices.Delete(all, i, i+1)
	}
	change(all[i])
	return all
}

func more(m ...*mnt.MntEntry) []*mnt.MntEntry { return append(m, criutest.Mounts()...) }

// wantMounts fails unless the mounts are accepted.
func wantMounts(t *testing.T, mounts []*mnt.MntEntry, spec *specs.Spec) map[string]*mnt.MntEntry {
	t.Helper()
	v, out, err := checkMounts(t, mountFiles(mounts), spec)
	if err != nil || v.report.Total != 0 {
		t.Fatalf("refused: error %v, findings %v", err, v.report.Err())
	}
	return out
}

func TestMountsOfAContainer(t *testing.T) {
	aNode(t)
	out := wantMounts(t, criutest.Mounts(), mountsSpec())
	if len(out) != len(criutest.Mounts()) {
		t.Errorf("%d mounts, want %d", len(out), len(criutest.Mounts()))
	}
	devices := map[uint32]string{}
	for _, was := range criutest.Mounts() {
		p, is := was.GetMountpoint(), out[was.GetMountpoint()]
		if is.GetMntId() != was.GetMntId() || is.GetParentMntId() != was.GetParentMntId() || is.GetExtKey() != was.GetExtKey() ||
			is.GetFlags()&^unix.MS_NOSYMFOLLOW != was.GetFlags() || is.GetSbFlags() != was.GetSbFlags()|was.GetFlags()&madeReadonly(p) {
			t.Errorf("an honest mount was changed:\n from %v\n to %v", was, is)
		}
		if links := is.GetFlags()&unix.MS_NOSYMFOLLOW == 0; links != (p == "/proc") {
			t.Errorf("CRIU would follow links in %s: %t", p, links)
		}
		if o, ok := devices[is.GetRootDev()]; ok {
			t.Errorf("%s and %s have one device: CRIU would make one from the other", p, o)
		}
		devices[is.GetRootDev()] = p
		if strings.Contains(is.GetOptions()+is.GetSource()+is.GetRoot(), "/var/lib") || is.GetSource() == "/dev/vda" {
			t.Errorf("a path of another node is left: %v", is)
		}
	}
}

// madeReadonly is the flag of the file system in the volumes, of which CRIU is not to make one writable, not even for a moment.
func madeReadonly(p string) uint32 {
	if p == "/" || p == "/secret" || p == "/sys/fs/cgroup/memory" {
		return unix.MS_RDONLY
	}
	return 0
}

// What the spec says comes true, whatever the image has.
func TestMountsAreForced(t *testing.T) {
	aNode(t)
	all := criutest.Mounts()
	for _, m := range all {
		*m.Flags = unix.MS_RELATIME | *m.Flags&unix.MS_RDONLY ^ unix.MS_RDONLY
		m.SbFlags = proto.Uint32(unix.MS_RDONLY | unix.MS_SYNCHRONOUS)
		m.SharedId, m.MasterId = proto.Uint32(7), proto.Uint32(8)
		*m.Flags |= unix.MS_SHARED | unix.MS_SLAVE | unix.MS_UNBINDABLE | unix.MS_REC
		if m.GetMountpoint() != "/dev" && m.GetMountpoint() != "/sys/fs/cgroup" {
			m.RootDev = proto.Uint32(42)
		}
		m.Root, m.Source, m.Options = proto.String("/../etc"), proto.String("/dev/sda"), proto.String("lowerdir=/")
		if m.ExtKey != nil {
			m.Deleted = proto.Bool(true)
			m.Fstype = proto.Uint32(uint32(mnt.Fstype_OVERLAYFS))
		}
	}
	spec := mountsSpec()
	spec.Root.Readonly = true
	out := wantMounts(t, all, spec)
	const closed = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for p, want := range map[string]struct {
		flags           uint32
		fstype          mnt.Fstype
		source, options string
	}{
		"/":                     {unix.MS_RDONLY, mnt.Fstype_UNSUPPORTED, "rootfs", ""},
		"/proc":                 {closed, mnt.Fstype_PROC, "proc", ""},
		"/sys":                  {closed | unix.MS_RDONLY, mnt.Fstype_SYSFS, "sysfs", ""},
		"/dev":                  {unix.MS_NOSUID, mnt.Fstype_TMPFS, "tmpfs", "mode=755,size=65536k"},
		"/dev/pts":              {unix.MS_NOSUID | unix.MS_NOEXEC, mnt.Fstype_DEVPTS, "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		"/dev/mqueue":           {closed, mnt.Fstype_MQUEUE, "mqueue", ""},
		"/sys/fs/cgroup":        {closed, mnt.Fstype_TMPFS, "tmpfs", "mode=755"},
		"/sys/fs/cgroup/memory": {closed | unix.MS_RDONLY, mnt.Fstype_UNSUPPORTED, "volume", ""},
		"/data":                 {0, mnt.Fstype_UNSUPPORTED, "volume", ""},
		"/secret":               {unix.MS_RDONLY, mnt.Fstype_UNSUPPORTED, "volume", ""},
	} {
		m := out[p]
		if p != "/proc" {
			want.flags |= unix.MS_NOSYMFOLLOW
		}
		if m.GetFlags() != want.flags|unix.MS_RELATIME || m.GetFstype() != uint32(want.fstype) || m.GetSource() != want.source || m.GetOptions() != want.options || m.GetRoot() != "/" {
			t.Errorf("%s is %v, want %+v", p, m, want)
		}
		if m.GetSharedId() != 0 || m.GetMasterId() != 0 || m.GetDeleted() || m.GetSbFlags()&^unix.MS_RDONLY != 0 {
			t.Errorf("%s is shared, or made: %v", p, m)
		}
		if ro := m.GetSbFlags()&unix.MS_RDONLY != 0; ro != (p == "/sys" || madeReadonly(p) != 0) {
			t.Errorf("the file system at %s is read-only: %t", p, ro)
		}
	}
}

func TestMountsPropagation(t *testing.T) {
	aNode(t)
	spec := mountsSpec()
	for i, m := range spec.Mounts {
		switch m.Destination {
		case "/data/":
			spec.Mounts[i].Options = []string{"rbind", "rslave", "rw"}
		case "/secret":
			spec.Mounts[i].Options = []string{"rbind", "rshared", "ro"}
		}
	}
	all := criutest.Mounts()
	for _, m := range all {
		m.SharedId, m.MasterId = proto.Uint32(26), proto.Uint32(27)
	}
	groups := map[uint32]bool{}
	for p, m := range wantMounts(t, all, spec) {
		if slave := m.GetMasterId() != 0; slave != (p == "/data") || slave != (m.GetFlags()&unix.MS_SLAVE != 0) {
			t.Errorf("%s: slave %t, flags %#x", p, slave, m.GetFlags())
		}
		if shared := m.GetSharedId() != 0; shared != (p == "/secret") || shared != (m.GetFlags()&unix.MS_SHARED != 0) {
			t.Errorf("%s: shared %t, flags %#x", p, shared, m.GetFlags())
		}
		for _, id := range []uint32{m.GetMasterId(), m.GetSharedId()} {
			if id != 0 && groups[id] {
				t.Errorf("%s shares group %d", p, id)
			}
			groups[id] = true
		}
	}
}

// A bind mount with no flag at all has those of its source.
func TestMountsSourceFlags(t *testing.T) {
	aNode(t)
	statfsNode = func(p string, st *unix.Statfs_t) error {
		if p != "/node/data/" {
			return unix.ENOENT
		}
		st.Flags = unix.ST_RDONLY | unix.ST_NOEXEC
		return nil
	}
	spec := mountsSpec()
	for i, m := range spec.Mounts {
		if m.Destination == "/data/" {
			spec.Mounts[i].Options = []string{"rbind"}
		}
	}
	if m := wantMounts(t, criutest.Mounts(), spec)["/data"]; m.GetFlags() != unix.MS_RDONLY|unix.MS_NOEXEC|unix.MS_RELATIME|unix.MS_NOSYMFOLLOW {
		t.Errorf("flags %#x", m.GetFlags())
	}
}

func TestMountsTerminal(t *testing.T) {
	aNode(t)
	at := func(root string) *mnt.MntEntry {
		m := criutest.Mount(50, 3, "/dev/console", mnt.Fstype_DEVPTS, "lowerdir=/", unix.MS_RELATIME)
		m.RootDev, m.Root = proto.Uint32(4), &root
		return m
	}
	dev := append(criutest.DevFiles(), criutest.File("./console", ""))
	for root, terminal := range map[string]bool{"/0": true, "/17": true, "/99999": false, "/../ptmx": false, "/": false} {
		for _, want := range []bool{true, false} {
			spec := mountsSpec()
			spec.Process.Terminal = want
			v, out, err := checkMounts(t, criutest.MountImages(more(at(root)), dev, criutest.CgroupFiles()), spec)
			if err != nil {
				t.Fatal(err)
			}
			if ok := v.report.Total == 0; ok != (want && terminal) {
				t.Errorf("terminal %s, allowed %t: %v", root, want, v.report.Err())
			} else if ok {
				pts, m := out["/dev/pts"], out["/dev/console"]
				if m.GetRootDev() != pts.GetRootDev() || m.GetOptions() != pts.GetOptions() || m.GetFlags() != unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_RELATIME|unix.MS_NOSYMFOLLOW {
					t.Errorf("console %v", m)
				}
			}
		}
	}
}

// A volume is found where a link of the image leads.
func TestMountsThroughLinks(t *testing.T) {
	aNode(t)
	moved := func(options ...string) *specs.Spec {
		s := mountsSpec()
		for i, o := range options {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/var/run/" + string(rune('a'+i)), Type: "bind", Source: "/x", Options: []string{"rbind", "rprivate", o}})
		}
		return s
	}
	a, b := criutest.Bind(50, 1, "/run/a", "/run/a", unix.MS_RELATIME), criutest.Bind(51, 1, "/run/b", "/run/b", unix.MS_RELATIME)
	out := wantMounts(t, more(a), moved("ro"))
	if m := out["/run/a"]; m.GetFlags()&unix.MS_RDONLY == 0 || m.GetExtKey() != "/run/a" {
		t.Errorf("%v", m)
	}
	out = wantMounts(t, more(a, b), moved("ro", "rw"))
	if out["/run/a"].GetFlags()&unix.MS_RDONLY == 0 || out["/run/b"].GetFlags()&unix.MS_RDONLY != 0 {
		t.Errorf("%v, %v", out["/run/a"], out["/run/b"])
	}
	for name, c := range map[string]struct {
		mounts []*mnt.MntEntry
		spec   *specs.Spec
		says   []string
	}{
		"one too many": {more(a, b), moved("ro"), []string{"/run/b"}},
		"another":      {more(b), moved(), []string{"/run/b"}},
		"other key":    {more(criutest.Bind(50, 1, "/run/a", "/secret", 0)), moved("ro"), []string{"/run/a", "bind mount of /secret"}},
	} {
		t.Run(name, func(t *testing.T) { wantFindings(t, mountFiles(c.mounts), c.spec, c.says...) })
	}
}

// With cgroup v2 there is one file system, which is not to be had on a node with v1.
func TestMountsCgroup2(t *testing.T) {
	aNode(t)
	all := slices.DeleteFunc(criutest.Mounts(), func(m *mnt.MntEntry) bool { return strings.HasPrefix(m.GetMountpoint(), "/sys/fs/cgroup") })
	all = append(all, criutest.Mount(7, 6, "/sys/fs/cgroup", mnt.Fstype_CGROUP2, "nsdelegate", 0))
	files := mountFiles(all)
	delete(files, "tmpfs-dev-7.tar.gz.img")
	wantFindings(t, files, mountsSpec(), "/sys/fs/cgroup", "cgroup2")
	unifiedNode = func() bool { return true }
	v, out, err := checkMounts(t, files, mountsSpec())
	if err != nil || v.report.Total != 0 {
		t.Fatal(err, v.report.Err())
	}
	const want = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RELATIME | unix.MS_NOSYMFOLLOW
	if m := out["/sys/fs/cgroup"]; m.GetFlags() != want || m.GetOptions() != "" || m.GetRoot() != "/" {
		t.Errorf("%v", m)
	}
	wantFindings(t, mountFiles(criutest.Mounts()), mountsSpec(), "/sys/fs/cgroup")
}

func TestNodeIsUnified(t *testing.T) {
	if isUnified(filepath.Join(t.TempDir(), "none")) || isUnified(t.TempDir()) {
		t.Error("a directory is no cgroup v2")
	}
}
