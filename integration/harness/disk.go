package harness

import (
	"errors"
	"fmt"
	"os"

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
	return nil
}

// Disk changes the disk of a node WithOwnDisk from now on: "full" has no room for another byte of a file, "no inodes" none
// for another file, and "" is in order again.
func (n *Node) Disk(state string) {
	n.t.Helper()
	for _, dir := range n.disks() {
		// What is written between the look and the change makes the kernel refuse the size: too small.
		err := n.remountDisk(dir, state)
		for tries := 0; errors.Is(err, unix.EINVAL) && tries < 100; tries++ {
			err = n.remountDisk(dir, state)
		}
		if err != nil {
			n.t.Errorf("harness: make %s %q: %v", dir, state, err)
		}
	}
}

func (n *node) remountDisk(dir, state string) error {
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
