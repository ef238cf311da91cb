package verify

import (
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// force writes what the spec says into the entries. Those that nothing explains are refused; they stay
// as they are, but for links.
//
// CRIU makes nothing in a read-only root file system or volume, not even for a moment: it makes a mount writable for a deleted
// file, but not where the file system itself is said to be read-only (mount.c, try_remount_writable), which it looks at for nothing else
// in a bind mount.
func (v *verifier) force(tree *mountTree) {
	for _, m := range append([]*mount{tree.root}, tree.mounts...) {
		if m.kind <= unexplained {
			continue
		}
		m.Fsname, m.WithPlugin, m.ExtMount, m.InternalSharing, m.ExtKey = nil, nil, nil, nil, nil
		// A bind mount is made of the new pod's source, which is there. For a deleted one CRIU would make it.
		m.Deleted = nil
		times := m.GetFlags() & timeFlags
		if times == 0 {
			times = unix.MS_RELATIME
		}
		switch m.kind {
		case rootMount:
			// CRIU binds it from the new container's root (mount-v2.c, do_mount_root_v2). nosuid and the
			// like are the node's, if it has them.
			flags := m.GetFlags() & grantFlags &^ unix.MS_RDONLY
			if v.spec.Root.Readonly {
				flags |= unix.MS_RDONLY
			}
			m.set(mnt.Fstype_UNSUPPORTED, "/", "rootfs", "", flags|times, flags&unix.MS_RDONLY)
			m.share(m.GetSharedId() != 0 && v.sharedRoot(), false)
		case volume:
			m.set(mnt.Fstype_UNSUPPORTED, "/", "volume", "", m.want.flags|times, m.want.flags&unix.MS_RDONLY)
			m.ExtKey = m.Mountpoint
			m.share(m.GetSharedId() != 0 && (m.want.shared || v.sharedRoot()), m.want.slave)
			if m.want.unbindable {
				*m.Flags |= unix.MS_UNBINDABLE
			}
		case fresh:
			// Of a file system that was made read-only, or was so already.
			super := m.want.super | m.GetSbFlags()&m.want.flags&unix.MS_RDONLY
			m.set(m.want.fstype, "/", m.want.source, m.want.data, m.want.flags|times, super)
			m.share(m.GetSharedId() != 0 && v.sharedRoot(), false)
		case maskedFile:
			m.set(mnt.Fstype_UNSUPPORTED, "/", "null", "", hiddenFlags|times, 0)
			m.ExtKey = proto.String(devNull)
		case maskedDir:
			// As a type that CRIU does not know it is not filled from an archive.
			m.set(mnt.Fstype_AUTO, "/", "tmpfs", v.maskData(), hiddenFlags|unix.MS_NODEV|times, unix.MS_RDONLY)
			m.Fsname = proto.String("tmpfs")
		case readOnly:
			w := m.base.want
			m.set(w.fstype, partOf(m.base, m.GetMountpoint()), w.source, w.data, w.flags|unix.MS_RDONLY|times, m.base.GetSbFlags())
		case console:
			m.set(mnt.Fstype_DEVPTS, m.GetRoot(), m.want.source, m.want.data, m.want.flags|times, m.want.super)
		}
		if m.kind != volume && m.kind != rootMount && m.kind != fresh {
			m.share(false, false)
		}
	}
	for _, m := range append([]*mount{tree.root}, tree.mounts...) {
		m.followNoLinks()
	}
	tree.number()
}

// followNoLinks keeps CRIU, which resolves paths as root, from following any link in a mount, whatever is or will be in it. CRIU's own
// files in /proc are links. The flag is taken back before a process runs (internal/guard).
func (m *mount) followNoLinks() {
	if mnt.Fstype(m.GetFstype()) != mnt.Fstype_PROC {
		m.Flags = proto.Uint32(m.GetFlags() | unix.MS_NOSYMFOLLOW)
	}
}

func (m *mount) set(fstype mnt.Fstype, root, source, options string, flags, super uint32) {
	m.Fstype, m.Root, m.Source, m.Options = proto.Uint32(uint32(fstype)), &root, &source, &options
	m.Flags, m.SbFlags = &flags, &super
}

// share gives a mount a peer group of its own, and makes it a slave of its source (CRIU: mount-v2.c,
// restore_one_sharing). The groups' IDs are this function's: by the checkpoint's,
// a mount could get another one's source as its master.
func (m *mount) share(shared, slave bool) {
	m.SharedId, m.MasterId = proto.Uint32(0), proto.Uint32(0)
	if shared {
		m.SharedId = proto.Uint32(2 * m.GetMntId())
		*m.Flags |= unix.MS_SHARED
	}
	if slave {
		m.MasterId = proto.Uint32(2*m.GetMntId() + 1)
		*m.Flags |= unix.MS_SLAVE
	}
}

func (v *verifier) sharedRoot() bool {
	return v.spec.Linux.RootfsPropagation == "rshared" || v.spec.Linux.RootfsPropagation == "shared"
}

// maskData are the options of a masked directory's file system (runc: rootfs_linux.go, maskDir).
func (v *verifier) maskData() string {
	const data = "nr_blocks=1,nr_inodes=1"
	if label := v.spec.Linux.MountLabel; label != "" {
		return withLabel(data, label)
	}
	return data
}

// number gives every mount a device of its own, but those that are parts of another. CRIU takes mounts of one
// device for bind mounts of each other: it makes the second from the first, whatever the spec
// says it is, and leaves out flags that both have (mount-v2.c, propagate_mount_v2 and
// do_bind_mount_v2), so that a volume could come back writable.
func (t *mountTree) number() {
	used := map[uint32]bool{0: true}
	all := append([]*mount{t.root}, t.mounts...)
	// A tmpfs keeps its device: the archive with its files is named after it. So does what is refused.
	for _, m := range all {
		if m.kind <= unexplained || m.isTmpfs() {
			used[m.GetRootDev()] = true
		}
	}
	next := uint32(0)
	for _, m := range all {
		if m.kind <= unexplained || m.isTmpfs() || m.kind == readOnly || m.kind == console {
			continue
		}
		// Only a device of major number 0 is mounted without a block device (CRIU: mount.c, resolve_source).
		if dev := m.GetRootDev(); used[dev] || dev>>minorBits != 0 {
			for next++; used[maxMinor-next]; {
				next++
			}
			m.RootDev = proto.Uint32(maxMinor - next)
		}
		used[m.GetRootDev()] = true
	}
	for _, m := range all {
		if m.kind == readOnly || m.kind == console {
			m.RootDev = m.base.RootDev
		}
	}
}

const (
	minorBits = 20 // of the kernel's device numbers, as CRIU writes them
	maxMinor  = 1<<minorBits - 1
)

func (m *mount) isTmpfs() bool { return m.kind == fresh && m.want.fstype == mnt.Fstype_TMPFS }
