package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// healthyDisk is the disk of a node WithOwnDisk as it should be.
const healthyDisk = "size=2g,nr_inodes=400k"

// disks are the file systems of a node WithOwnDisk.
func (n *node) disks() []string { return []string{n.path("root"), n.path("state")} }

func (n *node) mountDisk() error {
	for _, dir := range n.disks() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("disk", dir, "tmpfs", 0, healthyDisk); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	// containerd has this database open to write to: with it on the same mount, that one could not become read-only.
	mounts := filepath.Join(n.path("state"), "io.containerd.mount-manager.v1.bolt")
	if err := os.MkdirAll(mounts, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(mounts, mounts, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", mounts, err)
	}
	return nil
}

// Disk changes the disk of a node WithOwnDisk from now on:
//
//	"full"         no room for another byte of a file
//	"no inodes"    none for another file
//	"read-only"    what is opened, made or removed by its name from now on fails;
//	               containerd goes on writing to what it has open
//	"snapshotter"  the same for the snapshotter's directory only: it can make and remove no snapshot
//	""             in order again
func (n *Node) Disk(state string) {
	n.t.Helper()
	// What is written between the look and the change makes the kernel refuse the size, too small. What has a file of the
	// mount open to write to makes it refuse the mount's change to read-only.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	change := func(dir, state string) {
		err := n.changeDisk(dir, state)
		for tries := 0; (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBUSY)) && tries < 5000; tries++ {
			<-tick.C
			err = n.changeDisk(dir, state)
		}
		if err != nil {
			n.t.Errorf("harness: make %s %q: %v", dir, state, err)
		}
	}
	for _, covered := range n.covered {
		if err := unix.Unmount(covered, unix.MNT_DETACH); err != nil {
			n.t.Errorf("harness: uncover %s: %v", covered, err)
		}
	}
	n.covered = nil
	switch state {
	case "read-only":
		// Nothing is mounted below the root that has to be unmounted meanwhile, so it gets another mount on top: its own
		// cannot become read-only, for the databases.
		n.cover(n.path("root"))
		change(n.path("state"), state)
	case "snapshotter":
		n.cover(filepath.Join(n.path("root"), "io.containerd.snapshotter.v1."+n.opts.snapshotter))
	default:
		for _, dir := range n.disks() {
			change(dir, state)
		}
	}
}

// cover mounts a directory on itself, read-only.
func (n *Node) cover(dir string) {
	n.t.Helper()
	err := unix.Mount(dir, dir, "", unix.MS_BIND, "")
	if err == nil {
		n.covered = append(n.covered, dir)
		err = unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err != nil {
		n.t.Errorf("harness: make %s read-only: %v", dir, err)
	}
}

func (n *node) changeDisk(dir, state string) error {
	if state == "read-only" {
		return unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT, ""); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	options := healthyDisk
	switch state {
	case "":
	case "full":
		options = fmt.Sprintf("size=%d,nr_inodes=400k", (st.Blocks-st.Bfree)*uint64(st.Bsize))
	case "no inodes":
		options = fmt.Sprintf("size=2g,nr_inodes=%d", st.Files-st.Ffree)
	default:
		return fmt.Errorf("there is no disk %q", state)
	}
	return unix.Mount("disk", dir, "tmpfs", unix.MS_REMOUNT, options)
}
