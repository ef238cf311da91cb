package verify

import (
	"cmp"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

const (
	maxMounts     = 10000 // CRIU compares each with each
	maxMountPoint = 3500  // CRIU puts a prefix before it in a buffer of PATH_MAX
	// maxMountElements is how many elements all mount points have together, each of which takes some hundred bytes of memory. A pod of
	// many volumes has a thousand.
	maxMountElements = 1 << 17
)

// mount is a mount of a checkpoint, or one that is added to it.
type mount struct {
	*mnt.MntEntry
	parent *mount
	// want is what the spec has at this place, base the mount of which this one is a part.
	want *wantedMount
	base *mount
	kind mountKind
	// added says that the checkpoint does not have it, dir that its source is a directory.
	added, dir bool
	// contents are what CRIU puts into a tmpfs.
	contents *place.Contents
}

// mountKind says why a mount is there.
type mountKind int

const (
	refused     mountKind = iota - 1 // and said so
	unexplained                      // until now
	rootMount
	volume     // a bind mount of the spec, or a cgroup of runc's
	fresh      // a file system of its own
	maskedFile // /dev/null over a file
	maskedDir  // an empty file system over a directory
	readOnly   // a part of its base, read-only
	console    // the container's terminal
)

// mountTree are the mounts of a checkpoint's mount namespace.
type mountTree struct {
	root   *mount
	mounts []*mount // by path, so that one comes before those below it; without root
	byPath map[string]*mount
	// table has where they are, nil after a change of the tree.
	table *place.Table
	// odd are entries that have no place in the tree.
	odd []oddMount
	// maskArchives are the images with the files of masked directories.
	maskArchives []string
}

// oddMount is an entry that could not be put into the tree, and why.
type oddMount struct {
	*mnt.MntEntry
	why string
}

// newMountTree checks that every mount is visible and where its mount point says. CRIU
// needs no more than the IDs, so that mounts could hide each other (CRIU: mount.c, mnt_build_ids_tree).
func newMountTree(name string, entries []*mnt.MntEntry) (*mountTree, error) {
	malformed := func(format string, args ...any) error {
		return fmt.Errorf("CRIU image %.200q: %s: %w", name, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	if len(entries) > maxMounts {
		return nil, malformed("it has %d mounts, more than %d", len(entries), maxMounts)
	}
	t := &mountTree{byPath: map[string]*mount{}}
	byID := map[uint32]*mount{}
	elements := 0
	for _, e := range entries {
		p := e.GetMountpoint()
		elements += strings.Count(p, "/")
		switch {
		case elements > maxMountElements:
			return nil, malformed("its mount points have more than %d elements", maxMountElements)
		// CRIU gives ID 0 a meaning of its own and reads IDs as signed.
		case e.GetMntId() == 0 || e.GetMntId() > math.MaxInt32 || byID[e.GetMntId()] != nil:
			return nil, malformed("mount ID %d is none, or comes twice", e.GetMntId())
		case e.GetParentMntId() == e.GetMntId() && p != "/":
			return nil, malformed("mount %d is its own parent", e.GetMntId())
		case t.byPath[p] != nil && p == "/":
			return nil, malformed("there are two mounts at /")
		}
		m := &mount{MntEntry: proto.Clone(e).(*mnt.MntEntry)}
		byID[e.GetMntId()] = m
		switch {
		case !path.IsAbs(p) || path.Clean(p) != p || len(p) > maxMountPoint || p != "/" && place.MountPoint(p) != nil:
			t.odd = append(t.odd, oddMount{m.MntEntry, "a path that is not clean and absolute, or that runc and CRIU take for another one"})
			continue
		case t.byPath[p] != nil:
			t.odd = append(t.odd, oddMount{m.MntEntry, "two mounts, one of which hides the other"})
			continue
		}
		t.byPath[p] = m
		if p == "/" {
			t.root = m
		} else {
			t.mounts = append(t.mounts, m)
		}
	}
	switch {
	case t.root == nil:
		return nil, malformed("there is no mount at /")
	case byID[t.root.GetParentMntId()] != nil && t.root.GetParentMntId() != t.root.GetMntId():
		return nil, malformed("the mount at / has a parent")
	}
	t.root.kind = rootMount
	slices.SortFunc(t.mounts, func(a, b *mount) int { return cmp.Compare(a.GetMountpoint(), b.GetMountpoint()) })
	for _, m := range t.mounts {
		if byID[m.GetParentMntId()] == nil {
			return nil, malformed("mount %d at %.200q has no parent", m.GetMntId(), m.GetMountpoint())
		}
		m.parent = t.above(m.GetMountpoint())
	}
	t.remove(func(m *mount) bool {
		if m.GetParentMntId() == m.parent.GetMntId() {
			return false
		}
		t.odd = append(t.odd, oddMount{m.MntEntry, "a mount on another one than that which is visible there, at " + m.parent.GetMountpoint()})
		return true
	})
	return t, nil
}

// above returns the mount on which one at this path is, or would be.
func (t *mountTree) above(p string) *mount {
	if p == "/" {
		return t.root
	}
	if t.table == nil {
		all := []*place.Mount{{At: "/"}}
		for _, m := range t.mounts {
			all = append(all, &place.Mount{ID: int32(m.GetMntId()), At: m.GetMountpoint()})
		}
		t.table, _ = place.New(all, nil) // with one at "/" there is no error, and nothing is looked for in it
	}
	if m := t.byPath[t.table.At(path.Dir(p)).Mount.At]; m != nil {
		return m
	}
	return t.root
}

// add puts a mount into the tree; what is below it must be put under it by settle.
func (t *mountTree) add(m *mount) {
	var highest uint32
	for _, o := range append(t.mounts, t.root) {
		highest = max(highest, o.GetMntId())
	}
	m.MntId, t.table = proto.Uint32(highest+1), nil
	t.mounts = append(t.mounts, m)
	t.byPath[m.GetMountpoint()] = m
	slices.SortFunc(t.mounts, func(a, b *mount) int { return cmp.Compare(a.GetMountpoint(), b.GetMountpoint()) })
}

// remove takes mounts out of the tree.
func (t *mountTree) remove(gone func(*mount) bool) {
	t.table = nil
	t.mounts = slices.DeleteFunc(t.mounts, func(m *mount) bool {
		if gone(m) {
			delete(t.byPath, m.GetMountpoint())
			return true
		}
		return false
	})
}

// settle gives every mount the parent on which it has to be.
func (t *mountTree) settle() {
	for _, m := range t.mounts {
		m.parent = t.above(m.GetMountpoint())
		m.ParentMntId = m.parent.MntId
	}
}
