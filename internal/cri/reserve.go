package cri

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// The values of the sysctl vm.overcommit_memory (Linux: Documentation/mm/overcommit-accounting.rst).
const (
	overcommitGuess  = "0"
	overcommitAlways = "1"
)

// mayReserve says whether the node's kernel lets a process have writable memory of these sizes, that it does not use:
// the largest mapping, and all together.
func mayReserve(largest, all uint64) (bool, error) {
	mode, err := os.ReadFile("/proc/sys/vm/overcommit_memory")
	if err != nil {
		return false, err
	}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return false, err
	}
	return allows(strings.TrimSpace(string(mode)), string(info), largest, all)
}

// allows is mayReserve for a mode and the content of /proc/meminfo.
func allows(mode, info string, largest, all uint64) (bool, error) {
	size := map[string]uint64{}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(line, ":")
		if n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64); err == nil {
			size[name] = n << 10
		}
	}
	if size["MemTotal"] == 0 {
		return false, fmt.Errorf("/proc/meminfo does not say how much memory there is")
	}
	switch mode {
	case overcommitAlways:
		return true, nil
	case overcommitGuess:
		return largest <= size["MemTotal"]+size["SwapTotal"], nil
	default:
		return size["Committed_AS"]+all <= size["CommitLimit"], nil
	}
}
