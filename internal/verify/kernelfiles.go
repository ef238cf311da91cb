package verify

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// kernelFile checks files that the kernel makes up: what they give depends on who has opened
// them (struct file's f_cred), and CRIU opens them as host root.
func (c *container) kernelFile(f *openFile, p place.Place, mode, flags uint32) {
	why := ""
	switch kind := p.FSType(); kind {
	case unix.PROC_SUPER_MAGIC:
		why = c.procFile(p, mode, flags)
	case unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC:
		if !c.could("CAP_SYS_ADMIN") && !readableByAll(mode, flags) {
			why = "only reading what everybody may read, for lack of CAP_SYS_ADMIN"
		}
	case unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.EFIVARFS_MAGIC, unix.PSTOREFS_MAGIC:
		if !c.could("CAP_SYS_ADMIN") {
			why = "no file of this file system, for lack of CAP_SYS_ADMIN"
		}
	default:
		// A procfs may come into a volume after this.
		if i := inProc(p.Path); i >= 0 && p.Mount.Kind != place.Hidden {
			why = "files of the container's own procfs"
		}
	}
	if p.Mount.Kind == place.Mqueue && !c.could("CAP_DAC_OVERRIDE") && !everybodyMay(mode, flags) {
		why = "message queues that are open to everybody, for lack of CAP_DAC_OVERRIDE"
	}
	if why != "" {
		// What belongs to the node, or to other containers, is not let through by an audit either: nothing of it is seen afterwards.
		others := p.Mount.Kind == place.Volume || p.Mount.Kind == place.Mqueue
		c.refuse(Finding{Check: "files", Object: f.String(), Field: "name", Found: p.Path + " (mode " + octal(mode) + ")", Allowed: why, Always: others,
			Remedy: "take the checkpoint while the container does not have it open"})
	}
}

// inProc returns where a path goes on after a procfs, by its looks, or -1. Volumes may hold one.
func inProc(name string) int {
	for at := 0; ; {
		i := strings.Index(name[at:], "/proc/")
		if i < 0 {
			return -1
		}
		at += i + len("/proc")
		if first, _, _ := strings.Cut(name[at+1:], "/"); isProcess(first) {
			return at
		}
	}
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}

func isDirectory(mode uint32) bool { return mode&unix.S_IFMT == unix.S_IFDIR }

// readableByAll says whether a file is open for reading, or for no more than its name, and everybody might have opened it so.
func readableByAll(mode, flags uint32) bool {
	if isDirectory(mode) || flags&unix.O_PATH != 0 {
		return true
	}
	return flags&unix.O_ACCMODE == unix.O_RDONLY && mode&0o004 != 0
}

// everybodyMay says whether a file with this mode might have been opened by everybody. CRIU opens no file of another mode than the
// image has (criu/files-reg.c, validate_file).
func everybodyMay(mode, flags uint32) bool {
	if flags&unix.O_PATH != 0 || isDirectory(mode) && flags&unix.O_ACCMODE == unix.O_RDONLY {
		return true
	}
	need := map[uint32]uint32{unix.O_RDONLY: 4, unix.O_WRONLY: 2, unix.O_RDWR: 6, unix.O_ACCMODE: 6}[flags&unix.O_ACCMODE]
	return mode&need == need
}

// isProcess says whether an entry of a procfs is about a process.
func isProcess(name string) bool { return name == "self" || name == "thread-self" || isNumber(name) }

// Files of procfs whose content does not depend on who has opened them.
var (
	procFiles = nameSet(`buddyinfo cgroups cmdline consoles cpuinfo crypto devices diskstats filesystems interrupts loadavg
		locks meminfo misc partitions softirqs stat swaps uptime version vmstat zoneinfo`)
	procPidFiles = nameSet(`auxv cgroup cmdline comm coredump_filter cpuset environ gid_map io limits loginuid maps mountinfo mounts
		mountstats numa_maps oom_adj oom_score oom_score_adj personality projid_map sched schedstat sessionid setgroups smaps
		smaps_rollup stat statm status timerslack_ns uid_map wchan`)
	// procOwnFiles are those which a process may write without any rights.
	procOwnFiles = nameSet("comm coredump_filter oom_adj oom_score_adj timerslack_ns")
	// procLists are directories below which are the files of other processes or links to anything, or attributes to write.
	procLists = nameSet("attr fd fdinfo map_files net ns task")
)

func nameSet(s string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(s) {
		set[w] = true
	}
	return set
}

// procFile says what would be allowed in the place of a file of procfs, or nothing if the file is.
func (c *container) procFile(p place.Place, mode, flags uint32) string {
	const plain = "files of procfs that tell everybody the same"
	parts := strings.FieldsFunc(p.InFS(), func(r rune) bool { return r == '/' })
	if p.Mount.Kind != place.Proc {
		// Of the node, or of another container: its numbers are those of other processes. Of a part the names are others.
		if isDirectory(mode) && !slices.ContainsFunc(parts, func(s string) bool { return isProcess(s) || procLists[s] }) {
			return ""
		}
		if p.Mount.Base == nil || !p.Mount.Base.IsTop() || len(parts) == 0 || isNumber(parts[0]) {
			return plain
		}
	}
	if len(parts) == 0 {
		return ""
	}
	if !isNumber(parts[0]) {
		switch {
		case !readableByAll(mode, flags):
			return plain
		case isDirectory(mode), parts[0] == "sys", parts[0] == "pressure", len(parts) == 1 && procFiles[parts[0]]:
			if isProcess(parts[0]) {
				return plain
			}
			return ""
		}
		return plain
	}
	pid, _ := strconv.ParseUint(parts[0], 10, 32)
	if !c.knowsPID(pid) && !c.remapped[uint32(pid)] {
		return "files of processes of the checkpoint"
	}
	parts = parts[1:]
	if len(parts) >= 2 && parts[0] == "task" && isNumber(parts[1]) {
		parts = parts[2:]
	}
	reads := flags&unix.O_PATH != 0 || flags&unix.O_ACCMODE == unix.O_RDONLY
	switch {
	case len(parts) == 0:
		return ""
	case len(parts) == 1 && procLists[parts[0]] && isDirectory(mode):
		return ""
	case len(parts) == 1 && procPidFiles[parts[0]] && (reads || procOwnFiles[parts[0]]):
		return ""
	case len(parts) == 2 && (parts[0] == "fdinfo" && reads || parts[0] == "net" && readableByAll(mode, flags)):
		return ""
	}
	return plain
}
