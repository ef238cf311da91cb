package changes

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// node is a file of any kind, of which the descriptor decides what it is: whatever gets its name meanwhile, the type,
// the owner and the content are of one file.
type node struct {
	fd int // O_PATH: opening it had no effect on a FIFO or a device, and waited for nobody
	st unix.Stat_t
}

// openRoot opens the directory that everything is read beneath. Nobody but this node's owner can change its path.
func openRoot(dir string) (*node, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return stat(fd)
}

// open opens what a directory has under a name of one element, which a listing of it has given.
func open(dir *os.File, name string) (*node, error) {
	how := unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		// The link itself may be what the name means, it is not followed. One element leads nowhere else: with
		// RESOLVE_BENEATH the kernel would refuse what is moved to another directory at this moment.
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(int(dir.Fd()), name, &how)
		switch {
		case err == nil:
			return stat(fd)
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN):
			return nil, err
		}
	}
}

func stat(fd int) (*node, error) {
	n := &node{fd: fd}
	if err := unix.Fstat(fd, &n.st); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *node) close() { _ = unix.Close(n.fd) }

func (n *node) is(format uint32) bool { return n.st.Mode&unix.S_IFMT == format }

// isWhiteout reports whether it stands for something that was deleted (Linux: Documentation/filesystems/overlayfs.rst).
func (n *node) isWhiteout() bool { return n.is(unix.S_IFCHR) && n.st.Rdev == 0 }

// path leads to the very file of the descriptor.
func (n *node) path() string { return "/proc/self/fd/" + strconv.Itoa(n.fd) }

// reopen opens a regular file or a directory for reading.
func (n *node) reopen() (*os.File, error) {
	if !n.is(unix.S_IFREG) && !n.is(unix.S_IFDIR) {
		return nil, fmt.Errorf("type %#o: %w", n.st.Mode&unix.S_IFMT, unix.EINVAL)
	}
	return os.OpenFile(n.path(), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// names returns what is in an open directory, sorted. One that was deleted has nothing.
func names(dir *os.File) ([]string, error) {
	out, err := dir.Readdirnames(-1)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	slices.Sort(out)
	return out, err
}

// target is where a symbolic link leads.
func (n *node) target() (string, error) {
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:size]), nil
}

// xattr returns an extended attribute of a regular file or a directory, nil if it has none.
func (n *node) xattr(name string) ([]byte, error) {
	// The kernel's limit of a value (Linux: include/uapi/linux/limits.h, XATTR_SIZE_MAX) is more than these have.
	buf := make([]byte, 1<<10)
	size, err := unix.Getxattr(n.path(), name, buf)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return buf[:size], nil
}
