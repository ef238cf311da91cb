package verify

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// spot is a mount of the new container, as far as it matters who may open what is in it.
type spot struct {
	at string
	// base is the directory or file that is mounted there, open by its name only, or nil.
	base     *place.Dir
	err      error // why there is no base and should be
	readonly bool
	devices  map[string]access // in a tmpfs that CRIU fills: its device nodes, by path
	links    linkTree
}

// paths are the files of the new container.
type paths struct {
	places []*spot
	user   *user
	granted
	fixed []string // paths below which nothing can be changed
	// searched are the directories that have been looked at.
	searched map[string]error
}

var errAbsent, errLink = place.ErrAbsent, place.ErrLink

// addPlaces finds out what is mounted where. root is the container's root file system.
func (a *accessCheck) addPlaces(root string) error {
	o := a.openFiles
	rootfs := &spot{at: "/", readonly: o.spec.Root.Readonly}
	rootfs.open(root)
	a.places = append(a.places, rootfs)
	if rootfs.err != nil {
		return fmt.Errorf("root file system of the new container: %w", rootfs.err)
	}
	inRoot := map[string]linkTree{"/": rootfs.links}
	for _, m := range o.spec.Mounts {
		// Where the links of the image lead, which is where runc has it mounted (criu_linux.go, addCriuRestoreMount).
		at, _, err := walk(inRoot, path.Clean("/"+m.Destination), true)
		if err != nil {
			return fmt.Errorf("mount %s of the OCI spec: %w", m.Destination, err)
		}
		options := parseOptions(m)
		p := &spot{at: at, readonly: options.set&unix.MS_RDONLY != 0, links: noLinks{}}
		switch {
		case options.bind || m.Type == "bind":
			p.open(m.Source)
		case m.Type == "tmpfs":
			if err := a.openTmpfs(p); err != nil {
				return err
			}
		}
		a.places = append(a.places, p)
	}
	return nil
}

func (m *spot) open(name string) {
	m.links = noLinks{}
	if m.base, m.err = place.OpenDir(name); m.err == nil {
		m.links = hostDir{m.base}
	}
}

func (m *spot) close() {
	if m.base != nil {
		m.base.Close()
	}
}

// openTmpfs reads which devices and links CRIU will put into a tmpfs. The device nodes are written as the pod was granted
// them, see tmpfs; everything else in it is the container's own, and nobody's secret.
func (a *accessCheck) openTmpfs(p *spot) error {
	p.devices = map[string]access{}
	for _, e := range a.mountEntries {
		name := fmt.Sprintf("tmpfs-dev-%d.tar.gz.img", e.GetRootDev())
		if _, ok := a.images.Size(name); !ok || path.Join("/", e.GetMountpoint()) != p.at || e.GetFstype() != uint32(mnt.Fstype_TMPFS) {
			continue
		}
		links, err := a.archivedLinks(name)
		if err != nil {
			return err
		}
		p.links = links
		if err := a.archivedDevices(name, p.devices); err != nil {
			return err
		}
	}
	return nil
}

func (o *openFiles) archivedDevices(name string, found map[string]access) error {
	f, err := o.images.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return malformed(name, "it is no gzip archive")
	}
	granted := devices(o.spec)
	for r, n := tar.NewReader(io.LimitReader(unzipped, maxTmpfsArchive)), 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil || n > maxTmpfsEntries {
			return malformed(name, "it cannot be read, or has more than %d entries", maxTmpfsEntries)
		}
		kind := byte('c')
		switch h.Typeflag {
		case tar.TypeBlock:
			kind = 'b'
			fallthrough
		case tar.TypeChar:
			// One that was not granted has no mode: only a capability would open it. It is refused elsewhere.
			found[path.Clean(h.Name)] = granted[device{kind, h.Devmajor, h.Devminor}]
		}
	}
}

// at returns the mount that a path is in.
func (p *paths) at(name string) *spot {
	var found *spot
	for _, m := range p.places {
		if below(m.at, name) && (found == nil || len(m.at) >= len(found.at)) {
			found = m
		}
	}
	return found
}

// trees are the links of all mounts.
func (p *paths) trees() map[string]linkTree {
	trees := map[string]linkTree{}
	for _, m := range p.places {
		trees[m.at] = m.links
	}
	return trees
}

// may says why a user of the container may not do this (R_OK and so on) with what is at a path, or nil.
// errAbsent says that there is nothing.
func (p *paths) may(name string, modes ...uint32) error {
	if name != "/" {
		if err := p.search(path.Dir(name)); err != nil {
			return err
		}
	}
	m := p.at(name)
	rest := strings.TrimPrefix(strings.TrimPrefix(name, m.at), "/")
	if d, ok := m.devices[rest]; ok {
		return p.mayDevice(d, modes)
	}
	f, err := m.find(rest)
	if err != nil || f == nil {
		return err
	}
	defer f.Close()
	for _, mode := range modes {
		if err := p.judge(name, f, m, mode); err != nil {
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
	err := p.may(dir, unix.X_OK)
	if err != nil && !errors.Is(err, errAbsent) && !errors.Is(err, errLink) {
		err = fmt.Errorf("%s: %w", dir, err)
	}
	// runc makes missing mount points with mode 0755.
	if errors.Is(err, errAbsent) && slices.ContainsFunc(p.places, func(m *spot) bool { return below(dir, m.at) }) {
		err = nil
	}
	p.searched[dir] = err
	return err
}

// find opens what is at a path in a mount, by its name only and through no link. It is nil where it does not matter.
func (m *spot) find(rest string) (*os.File, error) {
	if m.err != nil {
		return nil, m.err
	}
	if m.base == nil {
		return nil, nil
	}
	return m.base.Find(rest)
}

// judge asks the kernel. What a user could change to be allowed counts as allowed: a file may have
// been open since before its owner took the right away.
func (p *paths) judge(name string, f *os.File, m *spot, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK && mode != 0 {
		return errLink
	}
	users := []uint32{p.uid}
	if p.permitted.has(capSetUID) && st.Uid != p.uid {
		users = append(users, st.Uid)
	}
	var err error
	for _, uid := range users {
		// A file system that nobody can write to is no matter of rights.
		if err = p.user.may(uid, int(f.Fd()), mode); err == nil || errors.Is(err, unix.EROFS) {
			return nil
		}
		owner := st.Uid == uid || p.reachable&(capFOwner|capChown) != 0
		if owner && errors.Is(err, unix.EACCES) && !m.readonly && !p.isFixed(name) {
			return nil
		}
	}
	if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		return err
	}
	return fmt.Errorf("owner %d:%d, mode %#o: %w", st.Uid, st.Gid, st.Mode&0o7777, fs.ErrPermission)
}

func (p *paths) isFixed(name string) bool {
	return slices.ContainsFunc(p.fixed, func(at string) bool { return below(path.Join("/", at), name) })
}

// mayDevice judges a device node that is not there yet.
func (p *paths) mayDevice(d access, modes []uint32) error {
	bits := uint32(d.mode.Perm())
	switch {
	case d.uid == p.uid || p.permitted.has(capSetUID):
		bits >>= 6
	case d.gid == p.gid || slices.Contains(p.groups, d.gid):
		bits >>= 3
	}
	for _, mode := range modes {
		if mode == unix.R_OK && p.reachable.has(capDACReadSearch) {
			continue
		}
		if mode&^bits&7 != 0 {
			return fmt.Errorf("owner %d:%d, mode %#o: %w", d.uid, d.gid, d.mode.Perm(), fs.ErrPermission)
		}
	}
	return nil
}

// mayChange says why a user may not make and remove names in the directory of a path, or in the nearest
// one above it that is there.
func (p *paths) mayChange(name string) error {
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		err := p.may(dir, unix.W_OK, unix.X_OK)
		if !errors.Is(err, errAbsent) || dir == "/" {
			if err != nil && !errors.Is(err, errLink) {
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
	st, ok := p.stat(name)
	dir, inDir := p.stat(path.Dir(name))
	if !ok || !inDir || dir.Mode&unix.S_ISVTX == 0 || st.Uid == p.uid || dir.Uid == p.uid || p.reachable.has(capFOwner) || p.permitted.has(capSetUID) {
		return nil
	}
	return fmt.Errorf("owner %d:%d, in a directory where only the owner may remove it: %w", st.Uid, st.Gid, fs.ErrPermission)
}

func (p *paths) stat(name string) (st unix.Stat_t, ok bool) {
	m := p.at(name)
	f, err := m.find(strings.TrimPrefix(strings.TrimPrefix(name, m.at), "/"))
	if err != nil || f == nil {
		return st, false
	}
	defer f.Close()
	return st, unix.Fstat(int(f.Fd()), &st) == nil
}
