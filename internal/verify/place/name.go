package place

import (
	"errors"
	"strings"
)

// Below says whether a clean path is in a directory, or the directory itself.
func Below(dir, name string) bool {
	return dir == "/" || name == dir || len(name) > len(dir) && name[len(dir)] == '/' && strings.HasPrefix(name, dir)
}

// odd are the characters that mean something in what runc tells CRIU of an external mount: CRIU before 4.3.1 writes its key and
// its source into one text, mnt[KEY]:SOURCE, without any escape, and looks for them by their beginning (criu/mount.c,
// ext_mount_add). mountinfo has backslashes for what it escapes, and ends lines (proc_pid_mountinfo(5)).
const odd = "]:\\\n\x00"

// MountPoint says why nothing can be mounted at a path, to which links of a root file system may have led, or nil. A link
// "/evil -> /data]:/etc" would give CRIU a directory of the node as the source of what is at /data (CVE-2026-119101).
func MountPoint(name string) error {
	switch {
	case name == "" || name == "/":
		return errors.New("it leads to the root of the container")
	case strings.ContainsAny(name, odd):
		return errors.New(`it leads to a path with "]", ":", a backslash or a newline, which runc and CRIU take for another one`)
	}
	return nil
}
