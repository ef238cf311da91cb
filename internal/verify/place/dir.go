package place

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrAbsent says that there is nothing at a path.
	ErrAbsent = errors.New("it is not there")
	// ErrLink says that a path leads through a symbolic link, or to one.
	ErrLink = errors.New("a symbolic link")
)

// Dir is a directory or a file of the node that is mounted in a container. It is open by its name only (O_PATH, open(2)):
// no driver of a device is asked, and nobody waits for the writer of a FIFO.
type Dir struct {
	f      *os.File
	mode   uint32
	ino    uint64
	fstype int64
}

// OpenDir opens a directory or a file. Links on the way to it are the node's and are followed, as runc does.
func OpenDir(name string) (*Dir, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be opened: %w", name, err)
	}
	d := &Dir{f: os.NewFile(uintptr(fd), name)}
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &fs)); err != nil {
		d.f.Close()
		return nil, fmt.Errorf("%s cannot be examined: %w", name, err)
	}
	d.mode, d.ino, d.fstype = st.Mode, st.Ino, fs.Type
	return d, nil
}

// Close closes it.
func (d *Dir) Close() error { return d.f.Close() }

// IsDir says whether it is a directory.
func (d *Dir) IsDir() bool { return d.mode&unix.S_IFMT == unix.S_IFDIR }

// IsTop says whether it is the root directory of a procfs, and no part of it.
func (d *Dir) IsTop() bool {
	const root = 1 // PROC_ROOT_INO (linux/proc_fs.h)
	return d.fstype == unix.PROC_SUPER_MAGIC && d.ino == root
}

// Find opens what is at a path below the directory by its name only, through no link; the path may be that of a link
// itself. "" is the directory, or the file, itself. The error is [ErrAbsent] or [ErrLink] for what these say.
func (d *Dir) Find(rest string) (*os.File, error) {
	if rest == "" {
		fd, err := unix.FcntlInt(d.f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), d.f.Name()), nil
	}
	if !d.IsDir() {
		return nil, ErrAbsent
	}
	return findAt(d.f, rest)
}

// findAt is Find below a directory that is open.
func findAt(dir *os.File, rest string) (*os.File, error) {
	for {
		fd, err := unix.Openat2(int(dir.Fd()), rest, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue // something was renamed meanwhile (openat2(2))
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG):
			return nil, ErrAbsent
		case errors.Is(err, unix.ELOOP):
			return nil, ErrLink
		case err != nil:
			return nil, err
		}
		return os.NewFile(uintptr(fd), rest), nil
	}
}

// Readlink returns where the link at a path leads, "" if there is none, or if a link is on the way to it.
func (d *Dir) Readlink(rest string) string {
	f, err := d.Find(rest)
	if err != nil {
		return ""
	}
	defer f.Close()
	return readlink(f)
}

func readlink(f *os.File) string {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// Trim returns a path as one below a directory: without slashes in front.
func Trim(name string) string { return strings.TrimLeft(name, "/") }
