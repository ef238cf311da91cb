package integration

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// What the kubelet sends with every container that is not privileged (k8s.io/kubernetes: pkg/securitycontext).
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func kubeletPaths() harness.ContainerOpt {
	return harness.Security(func(s *runtime.LinuxContainerSecurityContext) {
		s.MaskedPaths, s.ReadonlyPaths = maskedPaths, readonlyPaths
	})
}

// newVolumesGrant checkpoints a container with a volume that it may write and one that it may not.
func newVolumesGrant(t *testing.T, n *harness.Node) *grant {
	t.Helper()
	ro, rw := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(ro, "file"), "read-only\n")
	writeFile(t, filepath.Join(rw, "file"), "writable\n")
	return newGrant(t, n, kubeletPaths(), harness.ReadonlyRootfs(), harness.Mount(ro, "/ro", true),
		harness.Mount(rw, "/rw", false))
}

// mountAttack is a set of mounts that the pod was not granted. Those of maskAttacks are neutralised, without code and
// word.
type mountAttack struct {
	what   string
	code   codes.Code
	word   string
	change func([]*mnt.MntEntry) []*mnt.MntEntry
}

// mountAttacks are T31 and T33: what CRIU would mount, from where and with which options, is in the image.
var mountAttacks = []mountAttack{
	// CRIU takes type, source and options of an AUTO mount from the image as they are.
	{"AUTO", codes.PermissionDenied, "/mnt", another("/mnt", mnt.Fstype_AUTO, "ext4", "/dev/vda", "")},
	{"AUTO proc", codes.PermissionDenied, "/mnt", another("/mnt", mnt.Fstype_AUTO, "proc", "proc", "")},
	{"AUTO cgroup", codes.PermissionDenied, "/mnt", another("/mnt", mnt.Fstype_AUTO, "cgroup", "cgroup", "memory")},
	{"overlay of the host's root", codes.PermissionDenied, "/mnt",
		another("/mnt", mnt.Fstype_OVERLAYFS, "", "overlay", "lowerdir=/:/etc")},
	{"devtmpfs", codes.PermissionDenied, "/mnt", another("/mnt", mnt.Fstype_DEVTMPFS, "", "devtmpfs", "")},
	{"binfmt_misc", codes.PermissionDenied, "/mnt", another("/mnt", mnt.Fstype_BINFMT_MISC, "", "binfmt_misc", "")},
	{"debugfs", codes.PermissionDenied, "/mnt", another("/mnt", mnt.Fstype_DEBUGFS, "", "debugfs", "")},
	{"tracefs", codes.PermissionDenied, "/mnt", another("/mnt", mnt.Fstype_TRACEFS, "", "tracefs", "")},
	{"securityfs", codes.PermissionDenied, "/mnt", another("/mnt", mnt.Fstype_SECURITYFS, "", "securityfs", "")},
	{"another sysfs", codes.PermissionDenied, "/mnt", another("/mnt", mnt.Fstype_SYSFS, "", "sysfs", "")},
	{"another proc", codes.PermissionDenied, "/mnt", another("/mnt", mnt.Fstype_PROC, "", "proc", "")},
	{"another tmpfs", codes.PermissionDenied, "/mnt", another("/mnt", mnt.Fstype_TMPFS, "", "tmpfs", "size=10g")},
	{"block device instead of a tmpfs", codes.PermissionDenied, "/dev", at("/dev", func(m *mnt.MntEntry) {
		m.Fstype, m.Fsname, m.Source = proto.Uint32(uint32(mnt.Fstype_AUTO)), proto.String("ext4"), proto.String("/dev/vda")
	})},
	{"devtmpfs instead of a tmpfs", codes.PermissionDenied, "/dev", at("/dev", func(m *mnt.MntEntry) {
		m.Fstype, m.Source = proto.Uint32(uint32(mnt.Fstype_DEVTMPFS)), proto.String("devtmpfs")
	})},
	cgroupAttack(),
	{"volume that is made up", codes.PermissionDenied, "/rw", at("/rw", func(m *mnt.MntEntry) {
		m.ExtKey, m.Fstype, m.Source, m.Options = nil, proto.Uint32(uint32(mnt.Fstype_TMPFS)), proto.String("tmpfs"),
			proto.String("")
	})},
	// CRIU mounts by the key what runc has given for it, wherever the image wants it.
	{"read-only volume where one is writable", codes.PermissionDenied, "/rw",
		at("/rw", func(m *mnt.MntEntry) { m.ExtKey = proto.String("/ro") })},
	{"volumes swapped", codes.PermissionDenied, "/rw", func(all []*mnt.MntEntry) []*mnt.MntEntry {
		return at("/ro", func(m *mnt.MntEntry) { m.ExtKey = proto.String("/rw") })(at("/rw",
			func(m *mnt.MntEntry) { m.ExtKey = proto.String("/ro") })(all))
	}},
	{"key of no volume", codes.PermissionDenied, "/rw",
		at("/rw", func(m *mnt.MntEntry) { m.ExtKey = proto.String("/proc/1/root") })},
	{"volume a second time", codes.PermissionDenied, "/mnt", copyOf("/ro", func(m *mnt.MntEntry) {
		m.Mountpoint, m.Flags = proto.String("/mnt"), proto.Uint32(m.GetFlags()&^unix.MS_RDONLY)
	})},
	{"two mounts at one place", codes.PermissionDenied, "/ro",
		copyOf("/ro", func(m *mnt.MntEntry) { m.Flags = proto.Uint32(m.GetFlags() &^ unix.MS_RDONLY) })},
	// The file system of a mount without a key is that of another one with the same
	// device, and its root is a path in there.
	{"root outside", codes.PermissionDenied, "/mnt", copyOf("/sys/fs/cgroup", func(m *mnt.MntEntry) {
		m.Mountpoint, m.Root = proto.String("/mnt"), proto.String("/../../../../../../etc")
	})},
	{"mount point outside", codes.PermissionDenied, "..", another("/../../../mnt", mnt.Fstype_TMPFS, "", "tmpfs", "")},
	{"mount point outside, relative", codes.PermissionDenied, "..",
		another("../../../mnt", mnt.Fstype_TMPFS, "", "tmpfs", "")},
	{"read-only path from elsewhere", codes.PermissionDenied, "/proc/sys",
		at("/proc/sys", func(m *mnt.MntEntry) { m.Root = proto.String("/sys/net") })},
	{"cgroups missing", codes.PermissionDenied, "/sys/fs/cgroup", without("/sys/fs/cgroup")},
	{"proc missing", codes.PermissionDenied, "/proc", without("/proc")},
	{"two roots", codes.InvalidArgument, "mountpoints-", copyOf("/", func(*mnt.MntEntry) {})},
	{"no root", codes.InvalidArgument, "mount", without("/")},
	{"one ID twice", codes.InvalidArgument, "mountpoints-", func(all []*mnt.MntEntry) []*mnt.MntEntry {
		all[0].MntId = all[1].MntId
		return all
	}},
	{"its own parent", codes.InvalidArgument, "mountpoints-",
		at("/dev", func(m *mnt.MntEntry) { m.ParentMntId = m.MntId })},
	{"nothing", codes.InvalidArgument, "mount", func([]*mnt.MntEntry) []*mnt.MntEntry { return nil }},
}

// cgroupAttack is a mount that shows the host's cgroups: with v1 one that runc binds into the container, with v2
// another file system in the place of the container's own.
func cgroupAttack() mountAttack {
	if unified() {
		return mountAttack{"cgroup of the host", codes.PermissionDenied, "/sys/fs/cgroup",
			at("/sys/fs/cgroup", func(m *mnt.MntEntry) {
				m.Fstype, m.Source, m.Options = proto.Uint32(uint32(mnt.Fstype_CGROUP)), proto.String("cgroup"),
					proto.String("memory")
			})}
	}
	return mountAttack{"cgroup of the host", codes.PermissionDenied, "/sys/fs/cgroup/memory",
		at("/sys/fs/cgroup/memory", func(m *mnt.MntEntry) { m.ExtKey = nil })}
}

// maskAttacks take away what hides files of the node. The plugin gives CRIU the masks of the spec, whatever the image
// has.
var maskAttacks = []mountAttack{
	{what: "root outside", change: at("/proc/interrupts",
		func(m *mnt.MntEntry) { m.Root = proto.String("/../../../../../../etc/passwd") })},
	{what: "a device", change: at("/proc/interrupts", func(m *mnt.MntEntry) { m.Root = proto.String("/mem") })},
	{what: "the file itself", change: func(all []*mnt.MntEntry) []*mnt.MntEntry {
		base := mountAt(all, "/proc")
		return at("/proc/interrupts", func(m *mnt.MntEntry) {
			m.Root, m.RootDev, m.Fstype, m.Source, m.Options, m.SbFlags = proto.String("/interrupts"), base.RootDev,
				base.Fstype, base.Source, base.Options, base.SbFlags
			m.ExtKey = nil
		})(all)
	}},
	{what: "writable directory", change: at("/sys/firmware", func(m *mnt.MntEntry) {
		m.Flags, m.SbFlags = proto.Uint32(m.GetFlags()&^unix.MS_RDONLY), proto.Uint32(0)
	})},
	{what: "writable path",
		change: at("/proc/sys", func(m *mnt.MntEntry) { m.Flags = proto.Uint32(m.GetFlags() &^ unix.MS_RDONLY) })},
	{what: "writable sysfs", change: at("/sys", func(m *mnt.MntEntry) {
		m.Flags, m.SbFlags = proto.Uint32(m.GetFlags()&^unix.MS_RDONLY), proto.Uint32(0)
	})},
	{what: "file missing", change: without("/proc/interrupts")},
	{what: "directory missing", change: without("/sys/firmware")},
	{what: "read-only path missing", change: without("/proc/sys")},
	{what: "over another file", change: at("/proc/keys",
		func(m *mnt.MntEntry) { m.Mountpoint = proto.String("/proc/meminfo") })},
}

// another adds a mount that CRIU makes itself.
func another(mountpoint string, kind mnt.Fstype, name, source, options string) func([]*mnt.MntEntry) []*mnt.MntEntry {
	return func(all []*mnt.MntEntry) []*mnt.MntEntry {
		m := &mnt.MntEntry{
			Fstype: proto.Uint32(uint32(kind)), MntId: proto.Uint32(9999), RootDev: proto.Uint32(9999),
			ParentMntId: mountAt(all, "/").MntId,
			Flags:       proto.Uint32(0), Root: proto.String("/"), Mountpoint: &mountpoint, Source: &source, Options: &options,
			SharedId: proto.Uint32(0), MasterId: proto.Uint32(0), SbFlags: proto.Uint32(0),
		}
		if name != "" {
			m.Fsname = &name
		}
		return append([]*mnt.MntEntry{m}, all...)
	}
}

// mountAt returns the mount at a path.
func mountAt(all []*mnt.MntEntry, mountpoint string) *mnt.MntEntry {
	i := slices.IndexFunc(all, func(m *mnt.MntEntry) bool { return m.GetMountpoint() == mountpoint })
	if i < 0 {
		panic("the checkpoint has no mount at " + mountpoint)
	}
	return all[i]
}

// at changes the mount at a path.
func at(mountpoint string, change func(*mnt.MntEntry)) func([]*mnt.MntEntry) []*mnt.MntEntry {
	return func(all []*mnt.MntEntry) []*mnt.MntEntry {
		change(mountAt(all, mountpoint))
		return all
	}
}

// copyOf adds a changed copy of a mount, with an ID of its own.
func copyOf(mountpoint string, change func(*mnt.MntEntry)) func([]*mnt.MntEntry) []*mnt.MntEntry {
	return func(all []*mnt.MntEntry) []*mnt.MntEntry {
		m := proto.Clone(mountAt(all, mountpoint)).(*mnt.MntEntry)
		m.MntId = proto.Uint32(9999)
		change(m)
		return append([]*mnt.MntEntry{m}, all...)
	}
}

// without leaves out the mount at a path and those below it.
func without(mountpoint string) func([]*mnt.MntEntry) []*mnt.MntEntry {
	return func(all []*mnt.MntEntry) []*mnt.MntEntry {
		return slices.DeleteFunc(all, func(m *mnt.MntEntry) bool {
			return m.GetMountpoint() == mountpoint || mountpoint != "/" && strings.HasPrefix(m.GetMountpoint(), mountpoint+"/")
		})
	}
}

// TestGrantMounts gives a checkpoint mounts that the pod has not, and takes away such as protect the node (T31, T32,
// T33, F3).
func TestGrantMounts(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newVolumesGrant(t, n)
	for _, tc := range mountAttacks {
		t.Run(tc.what, func(t *testing.T) {
			g.refusesEdited(t, func(e *imageEditor) { e.Mounts(tc.change) }, tc.code, tc.word)
		})
	}
	t.Run("two mount namespaces", func(t *testing.T) {
		g.refusesEdited(t, func(e *imageEditor) {
			name := e.Name("mountpoints-*.img")
			e.Write("mountpoints-99.img", e.Read(name))
		}, codes.InvalidArgument, "mountpoints-99.img")
	})
	for _, tc := range maskAttacks {
		t.Run("mask: "+tc.what, func(t *testing.T) {
			g.accepts(t, editImages(t, g.archive, func(e *imageEditor) { e.Mounts(tc.change) }),
				func(c *harness.Container) { requireHidden(t, c) })
		})
	}
	asMounted := func(t *testing.T, archive string) {
		g.accepts(t, archive, func(c *harness.Container) {
			for mountpoint, readonly := range map[string]bool{"/": true, "/ro": true, "/rw": false, "/sys": true,
				"/proc": false} {
				requireReadonly(t, c, mountpoint, readonly)
			}
			requireHidden(t, c)
			if got := c.Exec("cat", "/ro/file", "/rw/file"); got != "read-only\nwritable\n" {
				t.Errorf("volumes: %q", got)
			}
			if got := c.Exec("wc", "-c", "/etc/hosts"); strings.HasPrefix(got, "0 ") {
				t.Error("/etc/hosts is empty")
			}
		})
	}
	// What the pod has it gets: CRIU would not have mounted it.
	for what, change := range map[string]func([]*mnt.MntEntry) []*mnt.MntEntry{"volume": without("/ro"),
		"hosts file": without("/etc/hosts")} {
		t.Run(what+" missing", func(t *testing.T) {
			asMounted(t,
				editImages(t, g.archive, func(e *imageEditor) { e.Mounts(change) }))
		})
	}
	t.Run("twin", func(t *testing.T) { asMounted(t, g.archive) })
}

// requireHidden fails the test unless the container sees none of the masked paths, and cannot write the read-only ones.
func requireHidden(t *testing.T, c *harness.Container) {
	t.Helper()
	for _, file := range maskedPaths {
		requireMasked(t, c, file)
	}
	for _, file := range append([]string{"/sys"}, readonlyPaths...) {
		if _, err := os.Stat(file); err == nil { // kernels differ in what they have
			requireReadonly(t, c, file, true)
		}
	}
}

// requireMasked looks at what an ordinary container has at a masked path: nothing, the null device, an empty directory,
// or what the default profile of AppArmor does not let it read.
func requireMasked(t *testing.T, c *harness.Container, file string) {
	t.Helper()
	out, denied, code, err := c.TryExec("/bin/sh", "-c",
		"if [ -d "+file+" ]; then ls "+file+"; elif [ -e "+file+" ]; then head -c 1 "+file+"; fi")
	if err != nil || out != "" || code != 0 && !strings.Contains(denied, "Permission denied") {
		t.Errorf("%s shows %q, %q, exit code %d, error %v", path.Clean(file), out, denied, code, err)
	}
}

// TestGrantReadonly restores a checkpoint of a container that could write into a pod that says it
// may not: CRIU would mount all as it was (F2, T32).
func TestGrantReadonly(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	volume := t.TempDir()
	mount := func(readonly bool) harness.ContainerOpt { return harness.Mount(volume, "/mnt", readonly) }
	writable := newGrant(t, n, mount(false), kubeletPaths())
	for what, opts := range map[string][]harness.ContainerOpt{
		"volume": {mount(true), kubeletPaths()},
		"root":   {mount(false), kubeletPaths(), harness.ReadonlyRootfs()},
		"both":   {mount(true), kubeletPaths(), harness.ReadonlyRootfs()},
	} {
		t.Run(what, func(t *testing.T) {
			g := *writable
			g.opts = opts
			g.accepts(t, g.archive, func(c *harness.Container) {
				requireReadonly(t, c, "/mnt", what != "root")
				requireReadonly(t, c, "/", what != "volume")
				for file, readonly := range map[string]bool{"/mnt/touched": what != "root", "/touched": what != "volume"} {
					if _, _, code, err := c.TryExec("touch", file); err != nil || (code != 0) != readonly {
						t.Errorf("touch %s: exit code %d, error %v, want read-only: %t", file, code, err, readonly)
					}
				}
			})
		})
	}
	t.Run("masked paths", func(t *testing.T) {
		// Of a privileged container, for one, nothing is hidden.
		bare := newGrant(t, n, mount(false))
		bare.opts = writable.opts
		bare.accepts(t, bare.archive, func(c *harness.Container) { requireHidden(t, c) })
	})
	t.Run("twin", func(t *testing.T) {
		writable.accepts(t, writable.archive, func(c *harness.Container) {
			requireReadonly(t, c, "/mnt", false)
			requireReadonly(t, c, "/", false)
			c.Exec("touch", "/mnt/touched", "/touched")
		})
	})
}
