package guard

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/rights"
)

// Capabilities of who may give files away (linux/capability.h).
const capChown = 1 << 0

// closedMode is that of a deleted directory in a volume, which the plugin gives to root, whoever's it was.
const closedMode = 0o700

// before looks at paths in what CRIU has mounted, before it opens or makes anything there.
type before struct {
	*guard
	mounts []*mountinfo.Info
	user   *rights.User // nil: the pod's may do everything
}

// errRefused is about a path by which CRIU would do what the pod may not.
var errRefused = fmt.Errorf("the container would get more than its pod was granted: %w", errdefs.ErrPermissionDenied)

// lookAtPaths refuses what CRIU would do at paths in the container's mounts, while they are in the yard. What is
// there now may be something else than when the checkpoint was verified, and CRIU leaves traces that nobody can take
// back.
func (g *guard) lookAtPaths(mounts []*mountinfo.Info) error {
	all, err := loadPaths(g.dir)
	if err != nil || len(all.Files)+len(all.Deleted) == 0 {
		return err
	}
	b := &before{guard: g, mounts: mounts}
	// On a node that only audits the checkpoint itself may ask for more.
	if holder := g.facts.Grant.Files; holder != nil && len(all.Deleted) > 0 && (!g.facts.Audit || g.facts.Permitted) {
		if b.user, err = rights.New(*holder); err != nil {
			return err
		}
		defer b.user.Close()
	}
	return inMounts(g.init, func() error {
		for _, f := range all.Files {
			if err := b.lookAtOpen(f); err != nil {
				return err
			}
		}
		for _, d := range all.Deleted {
			if err := b.lookAtDeleted(d); err != nil {
				return fmt.Errorf("deleted file %.200q: %w", d.Name, err)
			}
		}
		return nil
	})
}

// lookAtOpen makes sure that CRIU does not wait for whoever has the other end of a FIFO.
func (b *before) lookAtOpen(f File) error {
	m, rest, err := b.place(f)
	if err != nil {
		return nil // CRIU does not find it either, or the verification has an opinion of it
	}
	top, err := openAt(m.Mountpoint)
	if err != nil {
		return err
	}
	defer top.Close()
	file, err := below(top, rest)
	if err != nil {
		return nil // as above
	}
	defer file.Close()
	if at, err := seenAt(file); err != nil {
		return err
	} else if at.mode&unix.S_IFMT == unix.S_IFIFO {
		return fmt.Errorf("a FIFO is in the place of the file %.200q: remove it, and create the container "+
			"again: %w", f.Name, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// place says in which mount of the yard a path is, and what of it is below that.
func (b *before) place(f File) (m *mountinfo.Info, rest string, err error) {
	name := fmt.Sprintf("/mnt-%010d", f.Mount) // mount-v2.c, get_plain_mountpoint
	at := slices.IndexFunc(b.mounts, func(m *mountinfo.Info) bool {
		return strings.HasPrefix(m.Mountpoint, yard) && strings.HasSuffix(m.Mountpoint, name)
	})
	if at < 0 {
		return nil, "", fmt.Errorf("its mount, %d, is not there: %w", f.Mount, errRefused)
	}
	rest, ok := strings.CutPrefix(f.Name, strings.TrimSuffix(f.At, "/")+"/")
	if !ok || rest == "" || path.Clean(f.Name) != f.Name || !path.IsAbs(f.Name) {
		return nil, "", fmt.Errorf("it is not below its mount at %.200q: %w", f.At, errRefused)
	}
	return b.mounts[at], rest, nil
}

func (b *before) lookAtDeleted(d Deleted) error {
	m, rest, err := b.place(d.File)
	if err != nil {
		return err
	}
	if _, kernels := kernelFiles[m.FSType]; kernels || slices.Contains([]string{"proc", "devpts", "mqueue"}, m.FSType) {
		// The first of them is the one in which links are followed.
		return fmt.Errorf("no file can be made in a mount of type %s: %w", m.FSType, errRefused)
	}
	if d.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		return fmt.Errorf("it is set-user-ID or set-group-ID (mode %#o): %w", d.Mode, errRefused)
	}
	top, err := openAt(m.Mountpoint)
	if err != nil {
		return err
	}
	defer top.Close()
	is, err := below(top, rest)
	if err == nil {
		defer is.Close()
	}
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil // a link is on the way, which CRIU does not follow
	case err == nil && d.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fmt.Errorf("something is where the directory was: %w", errRefused)
	case err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR):
		return err
	}
	dir, err := nearest(top, rest)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := b.mayOwn(d, dir); err != nil {
		return err
	}
	return b.mayChange(d, is, dir, has(m, "ro"))
}

// mayOwn makes sure that a process of the pod could have given it to whom CRIU gives it.
func (b *before) mayOwn(d Deleted, dir *os.File) error {
	g := &b.facts.Grant.Process
	if d.Linked || g.Sets[1]&capChown != 0 || d.Mode == unix.S_IFDIR|closedMode && d.UID == 0 && d.GID == 0 {
		return nil
	}
	if !g.AnyUID && !slices.Contains(g.UIDs, d.UID) {
		return fmt.Errorf("user %d, allowed %v: %w", d.UID, g.UIDs, errRefused)
	}
	if g.AnyGID || slices.Contains(g.GIDs, d.GID) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_ISGID == 0 || st.Gid != d.GID { // inode(7)
		return fmt.Errorf("group %d, allowed %v: %w", d.GID, g.GIDs, errRefused)
	}
	return nil
}

// mayChange makes sure that the pod's user may make and remove names where CRIU does: is is what is there, or nil.
func (b *before) mayChange(d Deleted, is, dir *os.File, readOnly bool) error {
	if b.user == nil {
		return nil
	}
	for _, mode := range []uint32{unix.W_OK, unix.X_OK} {
		if err := b.user.May(dir, readOnly, mode); err != nil {
			uid := b.facts.Grant.Files.UID
			return fmt.Errorf("in a directory that user %d of the pod may not change: %w: %w", uid, err, errRefused)
		}
	}
	if !d.Linked || is == nil {
		return nil
	}
	var file, in unix.Stat_t
	if err := errors.Join(unix.Fstat(int(is.Fd()), &file), unix.Fstat(int(dir.Fd()), &in)); err != nil {
		return err
	}
	holder := b.facts.Grant.Files
	own := holder.AnyUser || holder.AnyOwner || file.Uid == holder.UID || in.Uid == holder.UID
	if in.Mode&unix.S_ISVTX != 0 && !own {
		return fmt.Errorf("a link of user %d, which user %d of the pod may not remove: %w", file.Uid, holder.UID, errRefused)
	}
	return nil
}

func openAt(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// below opens what is at a path in a mount by its name only, through no link.
func below(top *os.File, rest string) (*os.File, error) {
	for {
		fd, err := unix.Openat2(int(top.Fd()), rest, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
		})
		switch {
		case errors.Is(err, unix.EAGAIN):
			continue // something was renamed meanwhile
		case err != nil:
			return nil, err
		}
		return os.NewFile(uintptr(fd), rest), nil
	}
}

// nearest opens the directory of a path, or the nearest one above it that is there.
func nearest(top *os.File, rest string) (*os.File, error) {
	for dir := path.Dir(rest); ; dir = path.Dir(dir) {
		f, err := below(top, dir)
		if err == nil || dir == "." || !errors.Is(err, unix.ENOENT) {
			return f, err
		}
	}
}
