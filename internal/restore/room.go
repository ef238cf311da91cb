package restore

import (
	"strings"

	"golang.org/x/sys/unix"
)

// withoutRoom says, as the end of an error, which of the directories are on a file system that is full or read-only.
// runc and CRIU fail then at a place that says nothing of it, and cannot write their logs.
func withoutRoom(dirs ...string) string {
	var text strings.Builder
	for _, dir := range dirs {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			continue
		}
		switch {
		case st.Flags&unix.ST_RDONLY != 0:
			text.WriteString("; the disk of " + dir + " is read-only: make it writable, restart containerd and create the " +
				"container again")
		case st.Blocks > 0 && st.Bavail == 0:
			text.WriteString("; the disk of " + dir + " is full: free some space and create the container again")
		case st.Files > 0 && st.Ffree == 0:
			text.WriteString("; the disk of " + dir + " has no inodes left: remove some files and create the container again")
		}
	}
	return text.String()
}
