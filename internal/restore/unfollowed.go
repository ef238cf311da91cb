package restore

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// unfollowed returns a path of the directory below which the kernel follows no symbolic link, executes nothing and
// opens no device, whoever exchanges what is in it meanwhile. It is a mount that nobody else can reach, and what is
// mounted below the directory is not in it. Needed is Linux 5.14 (mount_setattr(2), MOUNT_ATTR_NOSYMFOLLOW).
func unfollowed(dir string) (path string, done func() error, err error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return "", nil, fmt.Errorf("view of %s: %w", dir, err)
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSYMFOLLOW | unix.MOUNT_ATTR_NOSUID |
		unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
		_ = unix.Close(fd)
		return "", nil, fmt.Errorf("view of %s that follows no link, for which the node needs Linux 5.14: %w", dir,
			os.NewSyscallError("mount_setattr", err))
	}
	return "/proc/self/fd/" + strconv.Itoa(fd), func() error { return unix.Close(fd) }, nil
}
