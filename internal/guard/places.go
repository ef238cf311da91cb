package guard

import (
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// places are the mounts in which a file of the container may be: its own, and those of the kernel that no mount namespace has,
// which have pipes, sockets and the like.
type places struct {
	// mounts are those of the container, by their IDs, and what is nil the kernel's.
	mounts map[int]*mountinfo.Info
	// namespaces is the mount of namespaces, which have to be the container's.
	namespaces int
	// rings is that of the rings of asynchronous I/O, 0 before it was looked for.
	rings int
}

func newPlaces(mounts []*mountinfo.Info) (*places, error) {
	p := &places{mounts: map[int]*mountinfo.Info{}}
	for _, m := range mounts {
		p.mounts[m.ID] = m
	}
	// One of a kind is made of each, and says where it is.
	var fds [2]int
	for _, make := range []func() ([]int, error){
		func() ([]int, error) { return fds[:], unix.Pipe2(fds[:], unix.O_CLOEXEC) },
		func() ([]int, error) { return one(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)) },
		func() ([]int, error) { return one(unix.EpollCreate1(unix.EPOLL_CLOEXEC)) },
		func() ([]int, error) { return one(unix.MemfdCreate("", unix.MFD_CLOEXEC)) },
		func() ([]int, error) { return one(unix.PidfdOpen(os.Getpid(), 0)) },
		huge(0), huge(unix.MFD_HUGE_2MB), huge(unix.MFD_HUGE_1GB),
	} {
		made, err := make()
		if err != nil {
			return nil, err
		}
		for _, fd := range made {
			f, err := fileAt(fmt.Sprintf("/proc/self/fd/%d", fd))
			unix.Close(fd)
			if err != nil {
				return nil, err
			}
			p.mounts[f.mount] = nil
		}
	}
	own, err := fileAt("/proc/self/ns/mnt")
	p.namespaces = own.mount
	return p, err
}

func one(fd int, err error) ([]int, error) { return []int{fd}, err }

// huge makes a file of huge pages, of which a machine need not have any.
func huge(size int) func() ([]int, error) {
	return func() ([]int, error) {
		fd, err := unix.MemfdCreate("", unix.MFD_CLOEXEC|unix.MFD_HUGETLB|size)
		if err != nil {
			return nil, nil //nolint:nilerr // then nobody has such pages
		}
		return []int{fd}, nil
	}
}

// seen is what is looked at of a file.
type seen struct {
	mount    int
	dev, ino uint64
	mode     uint32
	null     bool // it is /dev/null
}

// fileAt looks at a file without asking the file system, which may be of somebody who does not answer.
func fileAt(path string) (seen, error) { return statx(unix.AT_FDCWD, path, 0) }

// seenAt is fileAt for an open file.
func seenAt(f *os.File) (seen, error) {
	return statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}

func statx(dir int, path string, flags int) (s seen, err error) {
	const want = unix.STATX_MNT_ID | unix.STATX_INO | unix.STATX_TYPE | unix.STATX_MODE
	var st unix.Statx_t
	if err := unix.Statx(dir, path, flags|unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, want, &st); err != nil {
		return s, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return s, fmt.Errorf("the kernel does not say in which mount a file is: Linux 5.8 or newer is needed: %w", errors.ErrUnsupported)
	}
	s = seen{mount: int(st.Mnt_id), dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino, mode: uint32(st.Mode)}
	s.null = st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev_major == 1 && st.Rdev_minor == 3
	return s, nil
}

// lookAtDescriptors looks where the files are that a process has open, and its directories and program.
func (i *inspection) lookAtDescriptors(p process) error {
	fds, err := names(p.path("fd"))
	if err != nil {
		return err
	}
	for _, fd := range fds {
		if err := i.lookAtFile(p, "descriptor "+fd, p.path("fd/"+fd), byLink); err != nil {
			return err
		}
	}
	for link, modes := range map[string]uint32{"cwd": unix.X_OK, "root": unix.X_OK, "exe": unix.R_OK | unix.X_OK} {
		if err := i.lookAtFile(p, link, p.path(link), modes); err != nil {
			return err
		}
	}
	return nil
}

// byLink is for a file that takes the rights that its link in /proc says.
const byLink = ^uint32(0)

func (i *inspection) lookAtFile(p process, field, path string, modes uint32) error {
	f, err := fileAt(path)
	if err != nil {
		return err
	}
	m, known := i.places.mounts[f.mount]
	switch {
	case m != nil:
		return i.lookAtAccess(p, field, path, f, modes)
	case known:
		return nil
	case f.null:
		return nil // what a process without input gets, from the node; it is the same everywhere
	case f.mount == i.places.namespaces && i.isNamespace(f.ino):
		return nil
	}
	name, err := os.Readlink(path)
	if err != nil {
		return err
	}
	i.add(Finding{"files", p.name, field, fmt.Sprintf("%s in mount %d", name, f.mount), "a file in a mount of the container"})
	return nil
}

// lookAtAccess looks whether a process of the pod may have a file in this way.
func (i *inspection) lookAtAccess(p process, field, path string, f seen, modes uint32) (err error) {
	m := i.places.mounts[f.mount]
	_, kernels := kernelFiles[m.FSType]
	kernels = kernels || m.FSType == "proc"
	asks := i.access != nil && i.owned[f.mount] != nil
	if !asks && !kernels {
		return nil
	}
	if modes == byLink {
		if modes, err = modesOf(path); err != nil {
			return err
		}
	}
	if kernels {
		name, err := os.Readlink(path)
		if err != nil {
			return err
		}
		if why := i.unlike(m, name, f, modes); why != "" {
			i.add(Finding{"files", p.name, field, name, why})
			return nil
		}
	}
	if !asks {
		return nil
	}
	denied, err := i.access.may(path, use{
		mount: f.mount, dev: f.dev, ino: f.ino, modes: modes,
		program: field == "exe", dir: f.mode&unix.S_IFMT == unix.S_IFDIR,
	})
	if denied == nil || err != nil {
		return err
	}
	name, err := os.Readlink(path)
	if err != nil {
		return err
	}
	allowed := fmt.Sprintf("what user %d of the pod may open: %v", i.facts.Grant.Files.UID, denied)
	i.add(Finding{accessCheck, p.name, field, name, allowed})
	return nil
}

// isNamespace reports whether it is the number of one of the container's namespaces.
func (i *inspection) isNamespace(inode uint64) bool {
	for name, id := range i.namespaces {
		if id == fmt.Sprintf("%s:[%d]", name, inode) {
			return true
		}
	}
	return false
}
