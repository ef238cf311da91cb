package cri

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cri-restore/cri-restore/internal/verify"
)

// The values of the sysctl vm.overcommit_memory (Linux: Documentation/mm/overcommit-accounting.rst).
const (
	overcommitGuess  = "0"
	overcommitAlways = "1"
)

// mayReserve says whether the node's kernel lets processes have as much writable memory, that they do not use.
func mayReserve(r verify.Reserved) (bool, error) {
	mode, err := os.ReadFile("/proc/sys/vm/overcommit_memory")
	if err != nil {
		return false, err
	}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return false, err
	}
	return allows(strings.TrimSpace(string(mode)), string(info), r)
}

// allows is mayReserve for a mode and the content of /proc/meminfo.
func allows(mode, info string, r verify.Reserved) (bool, error) {
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
		return r.Largest <= size["MemTotal"]+size["SwapTotal"], nil
	default:
		return size["Committed_AS"]+r.All <= size["CommitLimit"], nil
	}
}
