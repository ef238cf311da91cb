package guard

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// bounding are the controllers of cgroup v1 that can keep a process from starting another one.
var bounding = []string{"cpu", "memory", "pids"}

// leave takes CRIU, which has made all processes, out of the container's cgroup into containerd's. Otherwise somebody who has used up
// what the pod may have could keep CRIU from starting the guard again, at a stage where it goes on without.
func (g *guard) leave() error {
	if os.Getppid() == 0 {
		return nil
	}
	criu, err := parent()
	if err != nil {
		return err
	}
	hierarchies, err := mountsOf(criu)
	if err != nil {
		return err
	}
	now, err := readProc(criu, "cgroup")
	if err != nil {
		return err
	}
	for line := range strings.Lines(g.facts.Cgroups) {
		// cgroups(7): hierarchy:controllers:path
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 || strings.Contains(string(now), line) {
			continue
		}
		at := slices.IndexFunc(hierarchies, func(m *mountinfo.Info) bool { return m.Root == "/" && isHierarchy(m, f[1]) })
		if at < 0 {
			continue // one that nothing bounds, or that is not mounted
		}
		file := filepath.Join(hierarchies[at].Mountpoint, f[2], "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(criu)), 0); err != nil {
			return fmt.Errorf("take CRIU out of the container's cgroup: %w", err)
		}
	}
	return nil
}

// isHierarchy reports whether it is the mount of these controllers, of which some bound processes. Version 2 has none in its line.
func isHierarchy(m *mountinfo.Info, controllers string) bool {
	if controllers == "" {
		return m.FSType == "cgroup2"
	}
	if m.FSType != "cgroup" || !slices.ContainsFunc(strings.Split(controllers, ","), func(c string) bool { return slices.Contains(bounding, c) }) {
		return false
	}
	options := strings.Split(m.VFSOptions, ",")
	return !slices.ContainsFunc(strings.Split(controllers, ","), func(c string) bool { return !slices.Contains(options, c) })
}
