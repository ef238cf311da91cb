package place

import (
	"os"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is what a mount of a container is.
type Kind int

const (
	// Unknown is a mount that nothing explains: it is refused, or an audit has let it through.
	Unknown Kind = iota
	// Root is the root file system.
	Root
	// Volume is a directory or a file of the node.
	Volume
	// Proc is the container's own procfs, or a part of it.
	Proc
	// Sysfs is a sysfs, or a part of it.
	Sysfs
	// Cgroup is a cgroup file system, or the directory above those of version 1.
	Cgroup
	// Tmpfs is a file system in memory that CRIU fills from an archive.
	Tmpfs
	// Devpts is the file system of the container's own terminals, or a terminal.
	Devpts
	// Mqueue has the message queues of the pod.
	Mqueue
	// Hidden hides what is below it: a masked path.
	Hidden
)

// magics are the numbers of file systems (statfs(2)) that a kind says without a look.
var magics = map[Kind]int64{
	Proc: unix.PROC_SUPER_MAGIC, Sysfs: unix.SYSFS_MAGIC, Cgroup: unix.CGROUP_SUPER_MAGIC, Tmpfs: unix.TMPFS_MAGIC, Devpts: unix.DEVPTS_SUPER_MAGIC,
}

// Node is a device node that is not there yet: who may open it.
type Node struct {
	Mode     os.FileMode
	UID, GID uint32
}

// Contents are what CRIU will put into a file system, by the clean path below it.
type Contents struct {
	Links map[string]string
	Nodes map[string]Node
	Names map[string]bool

	longest int // of the names of links
}

// Mount is a mount of the new container, as it will be.
type Mount struct {
	// ID is its number in the images, by which they refer to it.
	ID int32
	// At is where it is mounted: a clean and absolute path without links.
	At       string
	Kind     Kind
	ReadOnly bool
	// Added says that the checkpoint does not have it.
	Added bool
	// Part is which directory or file of its file system is mounted, "" for the root of it.
	Part string
	// Base is the directory or file of the node that is mounted, nil if there is none or Err says why it cannot be looked at.
	Base *Dir
	Err  error
	// Contents are what will be in it; nil: nothing that is known.
	Contents *Contents

	step func(int) error
}

// Find opens what is at a path in the mount as [Dir.Find] does. It is nil, without an error, in a mount that is not the node's. The
// error may also be that of the table's steps, of which each element of the path is one: the kernel looks for them one after the other.
func (m *Mount) Find(rest string) (*os.File, error) {
	if m.Base == nil {
		return nil, m.Err
	}
	if m.step != nil {
		if err := m.step(2 + strings.Count(rest, "/")); err != nil {
			return nil, err
		}
	}
	return m.Base.Find(rest)
}

// Place is where a path is.
type Place struct {
	// Mount is the innermost mount that the path is in, Was the innermost of those that the checkpoint has.
	Mount, Was *Mount
	// Path is the path, Rest what remains of it in the mount: "" for the mount point itself.
	Path, Rest string
}

// FSType is the magic number of the file system (statfs(2)) that a path is in, 0 if that is not known. For one that does not
// exist it is that of the nearest directory above it, which is looked for by halves: a path may have thousands of elements.
func (p Place) FSType() int64 {
	if p.Mount.Base == nil {
		return magics[p.Mount.Kind]
	}
	var ends []int // of the elements
	for i := range len(p.Rest) {
		if p.Rest[i] == '/' {
			ends = append(ends, i)
		}
	}
	if p.Rest != "" {
		ends = append(ends, len(p.Rest))
	}
	found := p.Mount.Base.fstype
	sort.Search(len(ends), func(i int) bool {
		f, err := p.Mount.Find(p.Rest[:ends[i]])
		if err != nil {
			return true // absent, or nobody can say: so is all below it
		}
		defer f.Close()
		var st unix.Statfs_t
		if unix.Fstatfs(int(f.Fd()), &st) == nil {
			found = st.Type
		}
		return false
	})
	return found
}

// InFS is the path within the file system, such as 7/stat of /proc/7/stat.
func (p Place) InFS() string { return Trim(p.Mount.Part + "/" + p.Rest) }

// Find opens what is there, as [Mount.Find].
func (p Place) Find() (*os.File, error) { return p.Mount.Find(p.Rest) }

// Stat examines what is there, itself if it is a link. The error is [ErrAbsent] also where nobody can look.
func (p Place) Stat() (st unix.Stat_t, err error) {
	f, err := p.Find()
	if err != nil {
		return st, err
	}
	if f == nil {
		return st, ErrAbsent
	}
	defer f.Close()
	return st, unix.Fstat(int(f.Fd()), &st)
}
