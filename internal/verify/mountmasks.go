package verify

import (
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// devNull is the key of the mounts that hide files: runc gives CRIU the node's /dev/null for it.
const devNull = "/dev/null"

// terminal is the name of a pseudo terminal in its file system; the kernel has 4096 at most by default.
var terminal = regexp.MustCompile(`^/[0-9]{1,4}$`)

// statNode looks at the node's /proc and /sys, which are of the same kernel as the container's.
var statNode = os.Stat

// hide makes the masked and the read-only paths those of the spec. Such a mount takes something
// away and gives nothing, so what the checkpoint lacks is added and what it has beyond is left, as
// far as there is such a path on this node: another kernel has other files.
//
// What is hidden outside of /proc and /sys has to be there: whether it exists cannot be known here.
func (v *verifier) hide(tree *mountTree) {
	for _, m := range tree.mounts {
		if v.matchHidden(m); m.kind == maskedDir {
			tree.maskArchives = append(tree.maskArchives, fmt.Sprintf("tmpfs-dev-%d.tar.gz.img", m.GetRootDev()))
		}
	}
	tree.remove(func(m *mount) bool {
		if m.kind != maskedFile && m.kind != maskedDir && m.kind != readOnly || m.base == nil {
			return false
		}
		mode, ok := onNode(m.base, m.GetMountpoint())
		return !ok || (m.kind == maskedFile && mode.IsDir()) || (m.kind == maskedDir && !mode.IsDir())
	})
	for _, p := range v.spec.Linux.ReadonlyPaths {
		v.hidePath(tree, path.Clean(p), false)
	}
	for _, p := range v.spec.Linux.MaskedPaths {
		v.hidePath(tree, path.Clean(p), true)
	}
	// There is nothing in a masked directory.
	tree.remove(func(m *mount) bool {
		if m.kind != maskedFile && m.kind != maskedDir && m.kind != readOnly {
			return false
		}
		return slices.ContainsFunc(tree.mounts, func(o *mount) bool {
			return o.kind == maskedDir && m != o && place.Below(o.GetMountpoint(), m.GetMountpoint())
		})
	})
	tree.settle()
	for _, m := range tree.mounts {
		if m.kind != unexplained && (m.parent.kind == maskedFile || m.parent.kind == maskedDir) {
			m.kind = unexplained
		}
	}
	for _, m := range tree.mounts {
		if m.kind == maskedFile && !v.masked(m.GetMountpoint()) {
			v.report.Masked = append(v.report.Masked, m.GetMountpoint())
		}
	}
}

// matchHidden finds out whether a mount hides something.
func (v *verifier) matchHidden(m *mount) {
	if m.kind != unexplained || m.GetWithPlugin() || m.GetExtMount() || m.GetInternalSharing() || m.GetDeleted() {
		return
	}
	base := baseOf(m.parent)
	if base == nil && !v.masked(m.GetMountpoint()) {
		return
	}
	switch {
	case m.ExtKey != nil:
		if m.GetExtKey() == devNull {
			m.kind, m.base = maskedFile, base
		}
		// crun's key is the path (crun: src/libcrun/criu.c). It becomes runc's.
		if base != nil && m.GetExtKey() == m.GetMountpoint() && v.masked(m.GetMountpoint()) {
			m.kind, m.base = maskedFile, base
			if mode, ok := onNode(base, m.GetMountpoint()); ok && mode.IsDir() {
				m.kind = maskedDir
			}
		}
	case mnt.Fstype(m.GetFstype()) == mnt.Fstype_TMPFS, mnt.Fstype(m.GetFstype()) == mnt.Fstype_AUTO && m.GetFsname() == "tmpfs":
		m.kind, m.base = maskedDir, base
	case base != nil && m.GetFstype() == base.GetFstype() && m.GetRootDev() == base.GetRootDev() && m.GetRoot() == partOf(base, m.GetMountpoint()):
		m.kind, m.base = readOnly, base
	}
}

// baseOf returns the /proc or /sys that is seen in a mount.
func baseOf(m *mount) *mount {
	switch {
	case m.kind == readOnly:
		return m.base
	case m.kind == fresh && (m.want.fstype == mnt.Fstype_PROC || m.want.fstype == mnt.Fstype_SYSFS):
		return m
	}
	return nil
}

func partOf(base *mount, p string) string { return strings.TrimPrefix(p, base.GetMountpoint()) }

// onNode looks for a path of a container's /proc or /sys in the node's.
func onNode(base *mount, p string) (os.FileMode, bool) {
	dir := "/proc"
	if base.want.fstype == mnt.Fstype_SYSFS {
		dir = "/sys"
	}
	info, err := statNode(dir + partOf(base, p))
	if err != nil {
		return 0, false
	}
	return info.Mode(), true
}

func (v *verifier) masked(p string) bool {
	return slices.ContainsFunc(v.spec.Linux.MaskedPaths, func(m string) bool { return path.Clean(m) == p })
}

// hidePath sees to it that a path of the spec is masked, or read-only.
func (v *verifier) hidePath(tree *mountTree, p string, mask bool) {
	if why := place.MountPoint(p); why != nil {
		v.notHidden(p, mask, why.Error())
		return
	}
	if m := tree.byPath[p]; m != nil {
		if m.kind == maskedFile || m.kind == maskedDir || (!mask && (m.kind == readOnly || m.want != nil && m.want.flags&unix.MS_RDONLY != 0)) {
			return
		}
		if m.kind == readOnly { // and to be masked too
			tree.remove(func(o *mount) bool { return o == m })
		} else {
			v.notHidden(p, mask, m.String())
			return
		}
	}
	up := tree.above(p)
	for o := up; o != tree.root; o = tree.above(o.GetMountpoint()) {
		if o.kind == maskedDir {
			return
		}
	}
	base := baseOf(up)
	if base == nil {
		v.notHidden(p, mask, "not hidden in the checkpoint")
		return
	}
	mode, ok := onNode(base, p)
	if !ok {
		return // as runc does
	}
	m := &mount{base: base, added: true, MntEntry: &mnt.MntEntry{
		Mountpoint: &p, Fstype: proto.Uint32(uint32(mnt.Fstype_UNSUPPORTED)), Root: proto.String("/"), RootDev: proto.Uint32(0),
		Flags: proto.Uint32(unix.MS_RELATIME), Source: proto.String(""), Options: proto.String(""),
	}}
	switch {
	case !mask:
		m.kind = readOnly
	case mode.IsDir():
		m.kind = maskedDir
	default:
		m.kind = maskedFile
	}
	tree.add(m)
}

func (v *verifier) notHidden(p string, mask bool, found string) {
	what := "a read-only path"
	if mask {
		what = "a masked path"
	}
	v.refuse(Finding{Check: "mounts", Object: "mount " + p, Field: "mount point", Found: found, Allowed: what})
}
