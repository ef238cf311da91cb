package guard

import (
	"path"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// capSysAdmin is CAP_SYS_ADMIN (linux/capability.h).
const capSysAdmin = 1 << 21

// kernelFiles are file systems that the kernel makes up, by their types. What they give depends on who has opened a
// file of theirs, and CRIU is root without the pod's limits. Of those that are true a pod without CAP_SYS_ADMIN has
// what everybody may read, of the others nothing.
var kernelFiles = map[string]bool{
	"sysfs": true, "cgroup": true, "cgroup2": true,
	"debugfs": false, "tracefs": false, "securityfs": false, "bpf": false, "efivarfs": false, "pstore": false,
}

// unlike says what would be allowed in the place of a file of the kernel's that is as no process of the pod could
// have it, "" if it could.
func (i *inspection) unlike(m *mountinfo.Info, name string, f seen, modes uint32) string {
	toAll := f.mode&unix.S_IFMT == unix.S_IFDIR || modes == 0 || modes == unix.R_OK && f.mode&0o004 != 0
	public, kernels := kernelFiles[m.FSType]
	switch {
	case m.FSType == "proc" && i.owned[m.ID] != nil:
		// Of the node, or of another container.
		in := path.Join("/", m.Root, strings.TrimPrefix(name, m.Mountpoint))
		first, _, _ := strings.Cut(strings.TrimPrefix(in, "/"), "/")
		if _, err := strconv.Atoi(first); err == nil || !toAll {
			return "of a procfs in a volume what is of no process, and tells everybody the same"
		}
	case !kernels || i.facts.Grant.Process.Sets[1]&capSysAdmin != 0:
	case !public:
		return "no file of this file system, for lack of CAP_SYS_ADMIN"
	case !toAll:
		return "only reading what everybody may read, for lack of CAP_SYS_ADMIN"
	}
	return ""
}
