package guard

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// yard is where CRIU mounts everything, in a mount namespace of its own, before it makes the container's of it (mount.c,
// create_mnt_roots). Six more characters follow.
const yard = "/tmp/.criu.mntns."

// hold keeps CRIU from following links of the root file system, and from writing to a read-only one, whatever the mounts
// image says: CRIU before 4.2 does not set the flags of this mount, which then are those of its source (mount-v2.c, do_mount_root_v2).
// That is a bind mount of runc's (libcontainer/criu_linux.go, Restore).
//
// It also notes in which cgroups CRIU is: the runtime has put it into the container's.
func (g *guard) hold() error {
	criu, err := parent()
	if err != nil {
		return err
	}
	cgroup, err := readProc(criu, "cgroup")
	if err != nil {
		return fmt.Errorf("cgroup of CRIU: %w", err)
	}
	if err := os.WriteFile(filepath.Join(g.dir, cgroupFile), cgroup, 0o600); err != nil {
		return err
	}
	mounts, err := mountsOf(g.init)
	if err != nil {
		return err
	}
	root := ""
	for _, m := range mounts {
		if strings.HasSuffix(m.Mountpoint, "/"+g.facts.Container+"/criu-root") {
			root = m.Mountpoint
		}
	}
	if root == "" {
		return fmt.Errorf("the root file system that the runtime has mounted for CRIU is not there: %w", errdefs.ErrFailedPrecondition)
	}
	flags := uint64(unix.MOUNT_ATTR_NOSYMFOLLOW)
	if g.facts.Grant.RootReadonly {
		flags |= unix.MOUNT_ATTR_RDONLY
	}
	return inMounts(g.init, func() error {
		fd, _, err := mountAt(root)
		if err != nil {
			return fmt.Errorf("mount %s: %w", root, err)
		}
		defer unix.Close(fd)
		if err := setFlags(fd, flags, 0, 0); err != nil {
			return fmt.Errorf("mount %s: set its flags: %w", root, err)
		}
		return nil
	})
}

// held makes sure that CRIU will follow no link in what it has mounted. It has opened nothing there yet.
func (g *guard) held() error {
	mounts, err := mountsOf(g.init)
	if err != nil {
		return err
	}
	seen := 0
	for _, m := range mounts {
		name, ok := strings.CutPrefix(m.Mountpoint, yard)
		if _, below, _ := strings.Cut(name, "/"); !ok || below == "" {
			continue
		}
		seen++
		if m.FSType != "proc" && !has(m, "nosymfollow") {
			return fmt.Errorf("CRIU would follow links in the mount %d (%s) of the container: %w", m.ID, m.FSType, errdefs.ErrFailedPrecondition)
		}
	}
	if seen == 0 {
		return fmt.Errorf("none of the mounts that CRIU has made for the container is to be seen: %w", errdefs.ErrFailedPrecondition)
	}
	return g.lookAtPaths(mounts)
}
