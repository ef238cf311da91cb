package verify

import (
	"slices"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

func hiddenSpec() *specs.Spec {
	spec := mountsSpec()
	spec.Linux.MaskedPaths = []string{"/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/none", "/proc/acpi", "/proc/sys/secret", "/sys/firmware/acpi"}
	spec.Linux.ReadonlyPaths = []string{"/proc/sys", "/proc/none2", "/proc/sysrq-trigger"}
	return spec
}

var hiddenNode = []string{"/proc/kcore", "/proc/keys", "/sys/firmware/", "/sys/firmware/acpi/", "/proc/acpi/", "/proc/sys/", "/proc/sys/secret", "/proc/sysrq-trigger", "/proc/meminfo", "/proc/bus/"}

// hiddenMounts are those that runc makes for hiddenSpec on hiddenNode.
func hiddenMounts() []*mnt.MntEntry {
	null := func(id, parent uint32, p string) *mnt.MntEntry {
		m := criutest.Bind(id, parent, p, "/dev/null", unix.MS_NOSUID|unix.MS_STRICTATIME)
		m.Fstype, m.RootDev, m.Root, m.Source = proto.Uint32(uint32(mnt.Fstype_TMPFS)), proto.Uint32(3), proto.String("/null"), proto.String("tmpfs")
		return m
	}
	dir := func(id, parent uint32, p string) *mnt.MntEntry {
		m := criutest.Mount(id, parent, p, mnt.Fstype_TMPFS, "size=4k,nr_inodes=1", unix.MS_RELATIME|unix.MS_RDONLY)
		m.SbFlags, m.RootDev = proto.Uint32(unix.MS_RDONLY), proto.Uint32(60)
		return m
	}
	part := func(id uint32, p, root string) *mnt.MntEntry {
		m := criutest.Mount(id, 2, p, mnt.Fstype_PROC, "", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RELATIME)
		m.RootDev, m.Root = proto.Uint32(2), &root
		return m
	}
	return []*mnt.MntEntry{
		null(20, 2, "/proc/kcore"), null(21, 2, "/proc/keys"), dir(22, 6, "/sys/firmware"), dir(23, 2, "/proc/acpi"),
		part(24, "/proc/sys", "/sys"), null(25, 24, "/proc/sys/secret"), part(26, "/proc/sysrq-trigger", "/sysrq-trigger"),
	}
}

func hiddenFiles(mounts []*mnt.MntEntry) map[string]string {
	files := mountFiles(mounts)
	files["tmpfs-dev-60.tar.gz.img"] = criutest.Archive(criutest.Dir("./"), criutest.File("./what-nobody-reads", "x"))
	return files
}

// wantHidden fails unless everything is hidden that hiddenSpec says, and not shown as something else.
func wantHidden(t *testing.T, out map[string]*mnt.MntEntry) {
	t.Helper()
	for _, p := range []string{"/proc/kcore", "/proc/keys", "/proc/sys/secret"} {
		if m := out[p]; m.GetExtKey() != "/dev/null" || m.GetFlags()&hiddenFlags != hiddenFlags || m.GetMntId() == 0 {
			t.Errorf("%s is %v", p, m)
		}
	}
	for _, p := range []string{"/sys/firmware", "/proc/acpi"} {
		m := out[p]
		if m.GetFstype() != uint32(mnt.Fstype_AUTO) || m.GetFsname() != "tmpfs" || m.GetSource() != "tmpfs" || m.ExtKey != nil ||
			m.GetFlags()&unix.MS_RDONLY == 0 || m.GetSbFlags() != unix.MS_RDONLY || m.GetOptions() != "nr_blocks=1,nr_inodes=1" {
			t.Errorf("%s is %v", p, m)
		}
	}
	proc := out["/proc"]
	for p, root := range map[string]string{"/proc/sys": "/sys", "/proc/sysrq-trigger": "/sysrq-trigger"} {
		m := out[p]
		if m.GetRoot() != root || m.GetFlags()&unix.MS_RDONLY == 0 || m.GetRootDev() != proc.GetRootDev() || m.GetFstype() != proc.GetFstype() ||
			m.GetSource() != proc.GetSource() || m.GetOptions() != proc.GetOptions() {
			t.Errorf("%s is %v", p, m)
		}
	}
	if got, want := out["/proc/sys/secret"].GetParentMntId(), out["/proc/sys"].GetMntId(); got != want {
		t.Errorf("the masked path below a read-only one is on mount %d, want %d", got, want)
	}
	for _, p := range []string{"/proc/none", "/proc/none2", "/sys/firmware/acpi"} {
		if out[p] != nil {
			t.Errorf("%s, which does not exist, is %v", p, out[p])
		}
	}
	ids := map[uint32]string{}
	for p, m := range out {
		if o, ok := ids[m.GetMntId()]; ok {
			t.Errorf("%s and %s have one ID", o, p)
		}
		ids[m.GetMntId()] = p
	}
}

func TestHidden(t *testing.T) {
	without := func(paths ...string) []*mnt.MntEntry {
		return slices.DeleteFunc(hiddenMounts(), func(m *mnt.MntEntry) bool { return slices.Contains(paths, m.GetMountpoint()) })
	}
	with := func(p string, change func(*mnt.MntEntry)) []*mnt.MntEntry {
		all := hiddenMounts()
		change(all[slices.IndexFunc(all, func(m *mnt.MntEntry) bool { return m.GetMountpoint() == p })])
		return all
	}
	secretOnProc := func(all []*mnt.MntEntry) []*mnt.MntEntry {
		for _, m := range all {
			if m.GetMountpoint() == "/proc/sys/secret" {
				m.ParentMntId = proto.Uint32(2)
			}
		}
		return all
	}
	for name, mounts := range map[string][]*mnt.MntEntry{
		"as runc makes them":  hiddenMounts(),
		"none":                nil,
		"file missing":        without("/proc/kcore"),
		"directory missing":   without("/sys/firmware"),
		"read-only missing":   secretOnProc(without("/proc/sys")),
		"one below missing":   without("/proc/sys/secret"),
		"shows a device":      with("/proc/kcore", func(m *mnt.MntEntry) { m.Root = proto.String("/mem") }),
		"shows what is above": with("/proc/sysrq-trigger", func(m *mnt.MntEntry) { m.Flags = proto.Uint32(0) }),
		"full": with("/sys/firmware", func(m *mnt.MntEntry) {
			m.Flags, m.SbFlags, m.Options = proto.Uint32(0), proto.Uint32(0), proto.String("size=100%")
		}),
		"one more":          append(hiddenMounts(), criutest.Bind(50, 2, "/proc/meminfo", "/dev/null", 0)),
		"of another kernel": append(hiddenMounts(), criutest.Bind(50, 2, "/proc/gone", "/dev/null", 0)),
	} {
		t.Run(name, func(t *testing.T) {
			aNode(t, hiddenNode...)
			files := hiddenFiles(more(mounts...))
			if mounts == nil {
				files = mountFiles(more())
			}
			out := wantMountsOf(t, files, hiddenSpec())
			wantHidden(t, out)
			if out["/proc/gone"] != nil {
				t.Error("a file that this kernel does not have would be mounted over")
			}
			if name == "one more" && out["/proc/meminfo"].GetExtKey() != "/dev/null" {
				t.Error("what was hidden is shown")
			}
		})
	}
}

// What a masked path cannot be is refused.
func TestHiddenRefused(t *testing.T) {
	at := func(p string, change func(*mnt.MntEntry)) []*mnt.MntEntry {
		all := hiddenMounts()
		change(all[slices.IndexFunc(all, func(m *mnt.MntEntry) bool { return m.GetMountpoint() == p })])
		return more(all...)
	}
	for name, c := range map[string]struct {
		mounts []*mnt.MntEntry
		path   string
	}{
		"file of its own":  {at("/proc/kcore", func(m *mnt.MntEntry) { m.ExtKey = nil; m.Fstype = proto.Uint32(uint32(mnt.Fstype_OVERLAYFS)) }), "/proc/kcore"},
		"volume":           {at("/proc/kcore", func(m *mnt.MntEntry) { m.ExtKey = proto.String("/data") }), "/proc/kcore"},
		"other part":       {at("/proc/sysrq-trigger", func(m *mnt.MntEntry) { m.Root = proto.String("/kcore") }), "/proc/sysrq-trigger"},
		"mount in a mask":  {more(append(hiddenMounts(), criutest.Mount(50, 22, "/sys/firmware/x", mnt.Fstype_SYSFS, "", 0))...), "/sys/firmware/x"},
		"outside of /proc": {more(append(hiddenMounts(), criutest.Bind(50, 1, "/etc/shadow", "/dev/null", 0))...), "/etc/shadow"},
	} {
		t.Run(name, func(t *testing.T) {
			aNode(t, hiddenNode...)
			wantFindings(t, hiddenFiles(c.mounts), hiddenSpec(), c.path)
		})
	}
	t.Run("outside of /proc, in the spec", func(t *testing.T) {
		aNode(t, hiddenNode...)
		spec := hiddenSpec()
		spec.Linux.MaskedPaths = append(spec.Linux.MaskedPaths, "/etc/shadow")
		out := wantMountsOf(t, hiddenFiles(more(append(hiddenMounts(), criutest.Bind(50, 1, "/etc/shadow", "/dev/null", 0))...)), spec)
		if out["/etc/shadow"].GetExtKey() != "/dev/null" {
			t.Errorf("%v", out["/etc/shadow"])
		}
		// Whether there is such a file is not known.
		wantFindings(t, hiddenFiles(more(hiddenMounts()...)), spec, "/etc/shadow", "a masked path")
	})
}

// TestHiddenByCrun: crun gives CRIU other names, and binds an empty directory.
func TestHiddenByCrun(t *testing.T) {
	aNode(t, hiddenNode...)
	mounts := hiddenMounts()
	for _, m := range mounts {
		switch p := m.GetMountpoint(); p {
		case "/proc/kcore", "/proc/keys", "/proc/sys/secret", "/sys/firmware", "/proc/acpi":
			m.ExtKey, m.Fstype = &p, proto.Uint32(uint32(mnt.Fstype_UNSUPPORTED))
		}
	}
	wantHidden(t, wantMountsOf(t, mountFiles(more(mounts...)), hiddenSpec()))
	// Not for what the pod does not mask: it could be anything.
	spec := hiddenSpec()
	spec.Linux.MaskedPaths = spec.Linux.MaskedPaths[1:]
	wantFindings(t, mountFiles(more(mounts...)), spec, "/proc/kcore")
}

// TestHiddenBesides: files that stay masked are told, because the spec has to have them.
func TestHiddenBesides(t *testing.T) {
	aNode(t, hiddenNode...)
	v, _, err := checkMounts(t, hiddenFiles(more(append(hiddenMounts(), criutest.Bind(50, 2, "/proc/meminfo", "/dev/null", 0))...)), hiddenSpec())
	if err != nil || !slices.Equal(v.report.Masked, []string{"/proc/meminfo"}) {
		t.Errorf("%v, %v", v.report.Masked, err)
	}
}

func wantMountsOf(t *testing.T, files map[string]string, spec *specs.Spec) map[string]*mnt.MntEntry {
	t.Helper()
	v, out, err := checkMounts(t, files, spec)
	if err != nil || v.report.Total != 0 {
		t.Fatal(err, v.report.Err())
	}
	return out
}
