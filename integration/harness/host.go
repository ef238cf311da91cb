package harness

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

const defaultRuncRoot = "/run/containerd/runc"

// mountsOf returns the mounts of this mount namespace that lie below dir, are bound
// from below it, or use it (an overlay of its snapshots), in the order they were made.
func mountsOf(dir string) ([]*mountinfo.Info, error) {
	below := dir + "/"
	return mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		refers := m.Mountpoint == dir || strings.HasPrefix(m.Mountpoint, below) ||
			strings.HasPrefix(m.Root, below) || strings.HasPrefix(m.Source, below) || strings.Contains(m.VFSOptions, below)
		return !refers, false
	})
}

type process struct {
	pid     int
	start   string // clock ticks since boot; tells two processes with one PID apart
	cmdline string
}

func (p process) key() string    { return strconv.Itoa(p.pid) + "@" + p.start }
func (p process) String() string { return fmt.Sprintf("pid %d: %s", p.pid, p.cmdline) }

// processesOf returns the processes of a node except this one: those with its marker
// in the environment (the daemon and what it starts), those in its cgroups (what
// runs in containers) and those with a path below dir in their command line.
// Zombies hold nothing and are not listed.
func processesOf(id, dir string) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		proc := filepath.Join("/proc", entry.Name())
		stat, err := os.ReadFile(filepath.Join(proc, "stat"))
		if err != nil {
			continue // gone since
		}
		// proc(5): the name is in parentheses and may hold anything; state is field 3, start time 22.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		environ, _ := os.ReadFile(filepath.Join(proc, "environ"))
		cgroup, _ := os.ReadFile(filepath.Join(proc, "cgroup"))
		if bytes.Contains(append([]byte{0}, environ...), []byte("\x00"+markerEnv+"="+id+"\x00")) ||
			bytes.Contains(cgroup, []byte(":"+cgroupOf(id)+"/")) ||
			bytes.Contains(cmdline, []byte(dir+"/")) {
			found = append(found, process{
				pid: pid, start: fields[19],
				cmdline: string(bytes.TrimSpace(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))),
			})
		}
	}
	return found, nil
}

type cgroup struct {
	path  string // on the host
	child string // relative to the node's cgroup
}

// cgroupsOf returns the cgroups below a node's, in every hierarchy of v1 and v2,
// parents before children.
func cgroupsOf(id string) ([]cgroup, error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	var found []cgroup
	for _, mount := range mounts {
		root := filepath.Join(mount, cgroupOf(id))
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !d.IsDir() || path == root {
				return err
			}
			found = append(found, cgroup{path: path, child: strings.TrimPrefix(path, root+"/")})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// cgroupMounts returns where the hierarchies are mounted under /sys/fs/cgroup.
func cgroupMounts() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, m := range mounts {
		if strings.HasPrefix(m.Mountpoint, "/sys/fs/cgroup") && !slices.Contains(paths, m.Mountpoint) {
			paths = append(paths, m.Mountpoint)
		}
	}
	return paths, nil
}
