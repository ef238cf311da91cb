package verify

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/rights"
	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// paths are the files of the new container, as one of its users sees them.
type paths struct {
	granted
	table *place.Table
	step  func(n int) error // of the table
	user  *rights.User
	// searched are the directories that have been looked at.
	searched map[string]error
}

// may says why a user of the container may not do this (R_OK and so on) with what is at a path, or nil.
// place.ErrAbsent says that there is nothing.
func (p *paths) may(name string, modes ...uint32) error {
	if name != "/" {
		if err := p.search(path.Dir(name)); err != nil {
			return err
		}
	}
	at := p.table.At(name)
	f, err := at.Find()
	if err != nil {
		return err
	}
	if f != nil {
		defer f.Close()
	}
	return p.mayFile(at, f, modes)
}

// mayFile is may for a file that is open by its name.
func (p *paths) mayFile(at place.Place, f *os.File, modes []uint32) error {
	if c := at.Mount.Contents; c != nil {
		if d, ok := c.Nodes[at.Rest]; ok {
			return p.mayDevice(d, modes)
		}
	}
	if f == nil {
		// The container's own. What is in a file system of the kernel's is for kernelFile, message queues as well.
		return nil
	}
	for _, mode := range modes {
		if err := errors.Join(p.step(1), p.user.May(f, at.Mount.ReadOnly, mode)); err != nil {
			return err
		}
	}
	return nil
}

// search says why a user may not search a directory and all above it.
func (p *paths) search(dir string) error {
	if err, ok := p.searched[dir]; ok {
		return err
	}
	err := p.table.Descend(p.known(dir), dir, func(at place.Place, f *os.File) error {
		if err, ok := p.searched[at.Path]; ok {
			return err
		}
		var err error
		switch {
		case at.Mount.Err != nil:
			err = at.Mount.Err
		case at.Mount.Base == nil:
			return p.mayFile(at, f, []uint32{unix.X_OK}) // costs nothing that would be worth the memory
		case f == nil:
			err = place.ErrAbsent
			// runc makes missing mount points with mode 0755.
			if p.table.HasBelow(at.Path) {
				err = nil
			}
		default:
			err = p.mayFile(at, f, []uint32{unix.X_OK})
		}
		if err != nil && !errors.Is(err, place.ErrAbsent) && !errors.Is(err, place.ErrLink) && !errors.Is(err, rights.ErrLink) {
			err = fmt.Errorf("%s: %w", at.Path, err)
		}
		p.searched[at.Path] = err
		return err
	})
	p.searched[dir] = err
	return err
}

// known returns the deepest directory above a path that is known to be one which may be searched, and so are all above it; "" if there is
// none. Many files may be in one directory that is deep.
func (p *paths) known(dir string) string {
	var ends []int
	for i := range len(dir) {
		if i > 0 && dir[i] == '/' {
			ends = append(ends, i)
		}
	}
	n := sort.Search(len(ends), func(i int) bool {
		err, ok := p.searched[dir[:ends[i]]]
		return err != nil || !ok
	})
	if n == 0 {
		return ""
	}
	return dir[:ends[n-1]]
}

// mayDevice judges a device node that is not there yet.
func (p *paths) mayDevice(d place.Node, modes []uint32) error {
	bits := uint32(d.Mode.Perm())
	switch {
	case d.UID == p.uid || p.permitted.has(capSetUID):
		bits >>= 6
	case d.GID == p.gid || slices.Contains(p.groups, d.GID):
		bits >>= 3
	}
	for _, mode := range modes {
		if mode == unix.R_OK && p.reachable.has(capDACReadSearch) {
			continue
		}
		if mode&^bits&7 != 0 {
			return fmt.Errorf("owner %d:%d, mode %#o: %w", d.UID, d.GID, d.Mode.Perm(), fs.ErrPermission)
		}
	}
	return nil
}

// mayChange says why a user may not make and remove names in the directory of a path, or in the nearest
// one above it that is there.
func (p *paths) mayChange(name string) error {
	at, err := p.table.Nearest(path.Dir(name))
	if err != nil {
		return err
	}
	for dir := at.Path; ; dir = path.Dir(dir) {
		err := p.may(dir, unix.W_OK, unix.X_OK)
		if !errors.Is(err, place.ErrAbsent) || dir == "/" {
			if err != nil && !errors.Is(err, place.ErrLink) && !errors.Is(err, rights.ErrLink) {
				err = fmt.Errorf("directory %s: %w", dir, err)
			}
			return err
		}
	}
}

// mayReplace is mayChange for a name that is removed first if it is there: in a sticky directory only by the owner
// of either.
func (p *paths) mayReplace(name string) error {
	if err := p.mayChange(name); err != nil {
		return err
	}
	st, err := p.table.At(name).Stat()
	dir, inDir := p.table.At(path.Dir(name)).Stat()
	if err != nil || inDir != nil || dir.Mode&unix.S_ISVTX == 0 || st.Uid == p.uid || dir.Uid == p.uid || p.reachable.has(capFOwner) || p.permitted.has(capSetUID) {
		return nil //nolint:nilerr // what is not there nobody has to remove
	}
	return fmt.Errorf("owner %d:%d, in a directory where only the owner may remove it: %w", st.Uid, st.Gid, fs.ErrPermission)
}
