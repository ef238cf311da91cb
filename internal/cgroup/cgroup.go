// Package cgroup is the processes in a container's cgroup: who they are, and their end.
package cgroup

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// minIDLength is that of an ID which names one container and nothing else, as the
// CRI plugin's do.
const minIDLength = 32

// Processes returns the processes in the container's cgroup or below it, in whatever
// hierarchy. It goes by the cgroup's name, which holds the container's ID
// whoever manages cgroups (".../<id>", ".../cri-containerd-<id>.scope").
func Processes(id string) ([]int, error) {
	if len(id) < minIDLength {
		return nil, nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// cgroups(7): hierarchy:controllers:path
		content, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(content) {
			if fields := strings.SplitN(string(line), ":", 3); len(fields) == 3 && strings.Contains(fields[2], id) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}
