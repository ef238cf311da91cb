package verify

import (
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// kernelFile checks files that the kernel makes up: what they give depends on who has opened
// them (struct file's f_cred), and CRIU opens them as host root.
func (o *openFiles) kernelFile(f *openFile, name string, mode uint32) {
	kind, rest := o.filesystem(name)
	if i := inProc(name); kind != unix.PROC_SUPER_MAGIC && i >= 0 {
		kind, rest = unix.PROC_SUPER_MAGIC, name[i:]
	}
	why := ""
	switch kind {
	case unix.PROC_SUPER_MAGIC:
		why = o.procFile(strings.FieldsFunc(rest, func(r rune) bool { return r == '/' }), mode, f.flags)
	case unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC:
		if !o.could("CAP_SYS_ADMIN") && !readableByAll(mode, f.flags) {
			why = "only reading what everybody may read, for lack of CAP_SYS_ADMIN"
		}
	case unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.EFIVARFS_MAGIC, unix.PSTOREFS_MAGIC:
		if !o.could("CAP_SYS_ADMIN") {
			why = "no file of this file system, for lack of CAP_SYS_ADMIN"
		}
	}
	if why != "" {
		o.refuse(Finding{Check: "files", Object: f.String(), Field: "name", Found: name + " (mode " + octal(mode) + ")", Allowed: why,
			Remedy: "take the checkpoint while the container does not have it open"})
	}
}

// filesystem returns the magic number of the file system that the spec puts at a path, and the path
// within it. What a path within a volume names is asked from the host.
func (o *openFiles) filesystem(name string) (kind int64, rest string) {
	var found specs.Mount
	at := ""
	for _, m := range o.spec.Mounts {
		if dst := path.Join("/", m.Destination); below(dst, name) && len(dst) >= len(at) {
			at, found = dst, m
		}
	}
	if at == "" {
		return 0, name
	}
	for _, masked := range o.spec.Linux.MaskedPaths {
		if below(path.Join("/", masked), name) {
			return 0, name
		}
	}
	rest = strings.TrimPrefix(name, at)
	switch found.Type {
	case "proc":
		return unix.PROC_SUPER_MAGIC, rest
	case "sysfs":
		return unix.SYSFS_MAGIC, rest
	case "cgroup", "cgroup2":
		return unix.CGROUP_SUPER_MAGIC, rest
	}
	var st unix.Statfs_t
	for _, source := range []string{path.Join(found.Source, rest), found.Source} {
		if found.Source != "" && unix.Statfs(source, &st) == nil {
			return st.Type, rest
		}
	}
	return 0, rest
}

// inProc returns where a path goes on after a procfs, by its looks, or -1. Volumes may hold one.
func inProc(name string) int {
	for at := 0; ; {
		i := strings.Index(name[at:], "/proc/")
		if i < 0 {
			return -1
		}
		at += i + len("/proc")
		first, _, _ := strings.Cut(name[at+1:], "/")
		if first == "self" || first == "thread-self" || isNumber(first) {
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
func (o *openFiles) procFile(parts []string, mode, flags uint32) string {
	const plain = "files of procfs that tell everybody the same"
	if len(parts) == 0 {
		return ""
	}
	if !isNumber(parts[0]) {
		switch {
		case !readableByAll(mode, flags):
			return plain
		case isDirectory(mode), parts[0] == "sys", parts[0] == "pressure", len(parts) == 1 && procFiles[parts[0]]:
			if parts[0] == "self" || parts[0] == "thread-self" {
				return plain
			}
			return ""
		}
		return plain
	}
	pid, _ := strconv.ParseUint(parts[0], 10, 32)
	if !o.knowsPID(pid) && !o.remapped[uint32(pid)] {
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
