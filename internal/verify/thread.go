package verify

import (
	"fmt"
	"maps"
	"slices"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// thread is a thread that will run again. CRIU restores everything here for each one by itself.
type thread struct {
	pid, tid uint32
	core     *criu_core.CoreEntry
}

// threads returns the threads of a process in a fixed order, the first one first. A zombie has none: CRIU
// makes a process that ends at once (cr-restore.c, restore_one_zombie), without any of its memory, and
// restores neither credentials nor limits.
func threads(p *criu.Process) []thread {
	if p.Dead() {
		return nil
	}
	out := []thread{{p.GetPid(), p.GetPid(), p.Core}}
	for _, tid := range slices.Sorted(maps.Keys(p.Others)) {
		out = append(out, thread{p.GetPid(), tid, p.Others[tid]})
	}
	return out
}

// String names it in a finding.
func (t thread) String() string {
	if t.tid == t.pid {
		return fmt.Sprintf("process %d", t.pid)
	}
	return fmt.Sprintf("process %d, thread %d", t.pid, t.tid)
}

// malformed is the error about an image of a thread that CRIU would not have written.
func (t thread) malformed(why string, args ...any) error {
	return malformed(criu.CoreName(t.tid), why, args...)
}
