package guard

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// inMounts calls f on a thread that is in the mount namespace of a process.
func inMounts(pid int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with its goroutine
		done <- func() error {
			fd, err := unix.Open(proc(pid, "ns/mnt"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("mount namespace of process %d: %w", pid, err)
			}
			defer unix.Close(fd)
			// Root and working directory are this thread's own then, as setns(2) wants it.
			if err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Setns(fd, unix.CLONE_NEWNS)); err != nil {
				return fmt.Errorf("mount namespace of process %d: %w", pid, err)
			}
			return f()
		}()
	}()
	return <-done
}

// mountsOf returns the mounts that a process sees.
func mountsOf(pid int) ([]*mountinfo.Info, error) {
	data, err := readProc(pid, "mountinfo")
	if err != nil {
		return nil, fmt.Errorf("mounts of process %d: %w", pid, err)
	}
	mounts, err := mountinfo.GetMountsFromReader(bytes.NewReader(data), nil)
	if err != nil {
		return nil, fmt.Errorf("mounts of process %d: %w", pid, err)
	}
	return mounts, nil
}

// has reports whether a mount has a flag, by its name in mountinfo.
func has(m *mountinfo.Info, flag string) bool {
	for options := m.Options; options != ""; {
		var option string
		if option, options, _ = strings.Cut(options, ","); option == flag {
			return true
		}
	}
	return false
}

// mountAt opens what is mounted at a path, for this thread, and returns the mount's ID.
func mountAt(path string) (fd, id int, err error) {
	fd, err = unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, 0, err
	}
	var st unix.Statx_t
	if err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err == nil &&
		(st.Mask&unix.STATX_MNT_ID == 0 || st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0) {
		err = unix.EINVAL // nothing is mounted there
	}
	if err != nil {
		unix.Close(fd)
		return -1, 0, err
	}
	return fd, int(st.Mnt_id), nil
}

func setFlags(fd int, set, clear uint64, how uint) error {
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|how, &unix.MountAttr{Attr_set: set, Attr_clr: clear})
}

// Supported returns an error of class errdefs.ErrNotImplemented where the kernel cannot keep a mount's links from being followed.
func Supported() error {
	// A kernel that knows the flag says that the descriptor is none.
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSYMFOLLOW})
	if errors.Is(err, unix.EBADF) {
		return nil
	}
	return unsupported(err)
}
