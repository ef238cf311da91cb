package criutest

import (
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	"google.golang.org/protobuf/proto"
)

// SyncThreads is the flag of filters that go to all threads of a process. CRIU writes it for
// every process whose threads have the same filters, one with a single thread too.
const SyncThreads = 1

// Filter is a seccomp filter that nothing follows, as CRIU records the one of a process with one thread.
func Filter(program []byte) *seccomp.SeccompFilter {
	return &seccomp.SeccompFilter{Filter: program, Flags: proto.Uint32(SyncThreads)}
}

// Then is a filter that is followed by the one at the place prev, an earlier one of the image.
func Then(prev uint32, program []byte) *seccomp.SeccompFilter {
	f := Filter(program)
	f.Prev = &prev
	return f
}

// Seccomp returns the image with all filters.
func Seccomp(filters ...*seccomp.SeccompFilter) string {
	return Image("SECCOMP", &seccomp.SeccompEntry{SeccompFilters: filters})
}

// Filtered gives a thread the filter at the place i, and those that follow it.
func Filtered(i uint32) func(*criu_core.CoreEntry) {
	return func(core *criu_core.CoreEntry) {
		core.ThreadCore.SeccompMode = criu_core.SeccompMode_filter.Enum()
		core.ThreadCore.SeccompFilter = &i
	}
}
