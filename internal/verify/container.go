package verify

import (
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// container is the new container as it will be, with what the checkpoint's processes have open in it.
type container struct {
	*openFiles
	table *place.Table
	// places are where the files are that have a path and a place; all others have been refused.
	places map[*openFile]place.Place
}

// table returns what will be mounted where, by what CRIU reads: mounts that are compared, forced and added. The table has what it
// has open, root as well, also if there is an error.
func (v *verifier) table(tree *mountTree, root *place.Mount) (*place.Table, error) {
	root.ID, root.ReadOnly = int32(tree.root.GetMntId()), tree.root.isReadOnly()
	all := []*place.Mount{root}
	for _, m := range tree.mounts {
		p := &place.Mount{ID: int32(m.GetMntId()), At: m.GetMountpoint(), ReadOnly: m.isReadOnly(), Added: m.added, Kind: m.place()}
		switch p.Kind {
		case place.Volume:
			p.Base, p.Err = place.OpenDir(m.want.source)
		case place.Tmpfs:
			p.Contents = m.contents
		case place.Proc, place.Sysfs:
			if m.kind == readOnly {
				p.Part = partOf(m.base, m.GetMountpoint())
			}
		}
		all = append(all, p)
	}
	return place.New(all, v.step)
}

func (m *mount) isReadOnly() bool {
	return m.GetFlags()&unix.MS_RDONLY != 0 || m.GetSbFlags()&unix.MS_RDONLY != 0 && m.kind != rootMount && m.kind != volume
}

// place says what kind of a mount it is to who looks for a path.
func (m *mount) place() place.Kind {
	switch m.kind {
	case rootMount:
		return place.Root
	case volume:
		if m.want.source == "" { // a hierarchy of cgroup v1
			return place.Cgroup
		}
		return place.Volume
	case maskedFile, maskedDir:
		return place.Hidden
	case console:
		return place.Devpts
	case fresh, readOnly:
		if m.want != nil && m.want.controllers != nil {
			return place.Cgroup
		}
		return freshKinds[mnt.Fstype(m.GetFstype())]
	}
	return place.Unknown
}

var freshKinds = map[mnt.Fstype]place.Kind{
	mnt.Fstype_PROC: place.Proc, mnt.Fstype_SYSFS: place.Sysfs, mnt.Fstype_CGROUP2: place.Cgroup, mnt.Fstype_TMPFS: place.Tmpfs,
	mnt.Fstype_DEVPTS: place.Devpts, mnt.Fstype_MQUEUE: place.Mqueue,
}
