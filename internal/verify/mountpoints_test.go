package verify

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

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
