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
	ids map[int]bool
	// namespaces is the mount of namespaces, which have to be the container's.
	namespaces int
	// rings is that of the rings of asynchronous I/O, 0 before it was looked for.
	rings int
}

func newPlaces(mounts []*mountinfo.Info) (*places, error) {
	p := &places{ids: map[int]bool{}}
	for _, m := range mounts {
		p.ids[m.ID] = true
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
			_, id, _, err := fileAt(fmt.Sprintf("/proc/self/fd/%d", fd))
			unix.Close(fd)
			if err != nil {
				return nil, err
			}
			p.ids[id] = true
		}
	}
	var err error
	_, p.namespaces, _, err = fileAt("/proc/self/ns/mnt")
	return p, err
}

func one(fd int, err error) ([]int, error) { return []int{fd}, err }

// huge makes a file of huge pages, of which a machine need not have any.
func huge(size int) func() ([]int, error) {
	return func() ([]int, error) {
		fd, err := unix.MemfdCreate("", unix.MFD_CLOEXEC|unix.MFD_HUGETLB|size)
		if err != nil {
			return nil, nil
		}
		return []int{fd}, nil
	}
}

// fileAt looks at a file without asking the file system, which may be of somebody who does not answer.
func fileAt(path string) (inode uint64, mount int, null bool, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID|unix.STATX_INO|unix.STATX_TYPE, &st); err != nil {
		return 0, 0, false, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return 0, 0, false, fmt.Errorf("the kernel does not say in which mount a file is: Linux 5.8 or newer is needed: %w", errors.ErrUnsupported)
	}
	null = st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev_major == 1 && st.Rdev_minor == 3
	return st.Ino, int(st.Mnt_id), null, nil
}

// lookAtDescriptors looks where the files are that a process has open, and its directories and program.
func (i *inspection) lookAtDescriptors(p process) error {
	fds, err := names(p.path("fd"))
	if err != nil {
		return err
	}
	for _, fd := range fds {
		if err := i.lookAtFile(p, "descriptor "+fd, p.path("fd/"+fd)); err != nil {
			return err
		}
	}
	for _, link := range []string{"cwd", "root", "exe"} {
		if err := i.lookAtFile(p, link, p.path(link)); err != nil {
			return err
		}
	}
	return nil
}

func (i *inspection) lookAtFile(p process, field, path string) error {
	inode, mount, null, err := fileAt(path)
	if err != nil {
		return err
	}
	switch {
	case i.places.ids[mount]:
		return nil
	case null:
		return nil // what a process without input gets, from the node; it is the same everywhere
	case mount == i.places.namespaces && i.isNamespace(inode):
		return nil
	}
	name, err := os.Readlink(path)
	if err != nil {
		return err
	}
	i.add(Finding{"files", p.name, field, fmt.Sprintf("%s in mount %d", name, mount), "a file in a mount of the container"})
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
