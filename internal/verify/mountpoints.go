package verify

import (
	"fmt"
	"path"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// noMount is what the pod has where the checkpoint has something else.
const noMount = "no mount there"

// mountpoints compares the mounts with the spec's, and makes CRIU mount what the spec says: the image
// that it reads is written anew from the spec. Of the checkpoint's remain the
// IDs, to which open files refer, and when access times are written.
//
// CRIU mounts as the node's root whatever type, source, options and flags its image has (mount-v2.c,
// do_new_mount_v2). The source of a bind mount is runc's word, which goes by the
// spec: CRIU finds it by the mount's key (mount.c, get_mp_root).
//
// The error is of class errdefs.ErrInvalidArgument if the mounts cannot be forced, and errdefs.ErrFailedPrecondition for a volume that cannot
// be mounted, with the reason.
func (v *verifier) mountpoints(root *place.Mount) (*mountTree, error) {
	name, entries, err := v.mountEntries()
	if err != nil {
		return nil, err
	}
	tree, err := newMountTree(name, entries)
	if err != nil {
		return nil, err
	}
	for _, o := range tree.odd {
		v.refuse(Finding{Check: "mounts", Object: "mount " + o.GetMountpoint(), Field: "mount point", Found: o.why, Allowed: noMount})
	}
	wanted, err := v.wantedMounts(root)
	if err != nil {
		return nil, err
	}
	for _, m := range tree.mounts {
		if err := v.step(1); err != nil {
			return nil, err
		}
		v.match(m, wanted)
	}
	v.matchConsole(tree)
	v.hide(tree)
	for _, m := range tree.mounts {
		if m.kind == unexplained {
			v.refuse(Finding{Check: "mounts", Object: "mount " + m.GetMountpoint(), Field: "mount point", Found: m.String(), Allowed: noMount,
				Remedy: "mount the same volumes as in the pod that was checkpointed; mounts that a process made itself, or that were below a volume on the node, cannot be restored"})
		}
	}
	if err := v.missing(tree, wanted); err != nil {
		return nil, err
	}
	v.force(tree)
	out := []proto.Message{tree.root.MntEntry}
	for _, m := range tree.mounts {
		out = append(out, m.MntEntry)
	}
	for _, o := range tree.odd {
		(&mount{MntEntry: o.MntEntry}).followNoLinks()
		out = append(out, o.MntEntry)
	}
	if err := v.replace(name, "MNTS", out...); err != nil {
		return nil, err
	}
	// CRIU mounts by the spec's word from here on, also if an audit lets the rest through.
	return tree, v.report.unless(v.tmpfs(tree))
}

// mountEntries returns the one image of mounts, that of the container's namespace, and its name.
func (v *verifier) mountEntries() (string, []*mnt.MntEntry, error) {
	ids, err := v.images.IDs(v.processes[0].GetPid())
	if err != nil {
		return "", nil, err
	}
	want := fmt.Sprintf("mountpoints-%d.img", ids.GetMntNsId())
	for _, name := range v.images.Names() {
		if strings.HasPrefix(name, "mountpoints-") && name != want {
			return "", nil, fmt.Errorf("CRIU image %.200q: it has the mounts of a namespace other than the container's: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	entries, err := criu.Entries[*mnt.MntEntry](v.images, want, "MNTS")
	return want, entries, err
}

// match finds out why a mount is there. Those above it have been matched before.
func (v *verifier) match(m *mount, wanted map[string]*wantedMount) {
	// A plugin of CRIU's would mount it, CRIU would look for a source on the node, or make one.
	if m.GetWithPlugin() || m.GetExtMount() || m.GetInternalSharing() || (m.GetDeleted() && m.ExtKey == nil) {
		return
	}
	p, w := m.GetMountpoint(), wanted[m.GetMountpoint()]
	up := m.parent
	switch {
	case w != nil && w.kind == volume && m.ExtKey != nil && m.GetExtKey() == p:
		m.kind, m.want, w.found = volume, w, true
	case w != nil && w.kind == fresh && m.ExtKey == nil && mnt.Fstype(m.GetFstype()) == w.fstype:
		m.kind, m.want, w.found = fresh, w, true
	case w != nil:
		w.found = true
		v.refuse(Finding{Check: "mounts", Object: "mount " + p, Field: "type", Found: m.String(), Allowed: w.String()})
		m.kind = refused
	case up.kind == fresh && up.want.controllers != nil && path.Dir(p) == up.GetMountpoint() && m.GetExtKey() == p:
		m.kind, m.want = volume, &wantedMount{path: p, kind: volume, flags: *up.want.controllers}
	}
}

// matchConsole finds the container's terminal, which is one of the pseudo terminals that it has.
func (v *verifier) matchConsole(tree *mountTree) {
	m, pts := tree.byPath["/dev/console"], tree.byPath["/dev/pts"]
	if m == nil || m.kind != unexplained || pts == nil || pts.kind != fresh || pts.want.fstype != mnt.Fstype_DEVPTS {
		return
	}
	if m.GetWithPlugin() || m.GetExtMount() || m.GetInternalSharing() || m.GetDeleted() || m.ExtKey != nil {
		return
	}
	if v.spec.Process.Terminal && mnt.Fstype(m.GetFstype()) == mnt.Fstype_DEVPTS && terminal.MatchString(m.GetRoot()) {
		m.kind, m.want, m.base = console, pts.want, pts
	}
}

// String says what a mount is in the checkpoint.
func (m *mount) String() string {
	what := fstypeName(mnt.Fstype(m.GetFstype()))
	if m.GetFsname() != "" {
		what = "file system " + m.GetFsname()
	}
	switch {
	case m.GetWithPlugin():
		what += " of a CRIU plugin"
	case m.GetExtMount():
		what += " bound from " + m.GetRoot()
	case m.ExtKey != nil:
		what = "a bind mount of " + m.GetExtKey()
	case m.GetRoot() != "/":
		what += " from " + m.GetRoot()
	}
	if m.GetInternalSharing() {
		what += ", shared"
	}
	if m.GetDeleted() {
		what += ", whose source is deleted"
	}
	return what + " (" + flagNames(m.GetFlags()&grantFlags) + ")"
}
