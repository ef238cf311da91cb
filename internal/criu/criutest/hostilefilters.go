package criutest

import (
	"encoding/binary"
	"fmt"
	"maps"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// LongestChain is how many filters of one instruction the kernel takes for a thread (kernel/seccomp.c,
// MAX_INSNS_PER_PATH).
const LongestChain = 1 << 18 / 8 / (1 + 4)

// instruction appends one of a filter (linux/filter.h, struct sock_filter). What it says of a jump that is not taken
// is 0.
func instruction(to []byte, op uint16, yes byte, k uint32) []byte {
	to = binary.NativeEndian.AppendUint16(to, op)
	return binary.NativeEndian.AppendUint32(append(to, yes, 0), k)
}

const (
	loadWord   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	jumpAtBit  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	jumpIfMore = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	returns    = unix.BPF_RET | unix.BPF_K
)

// ShortProgram is a filter of 51 instructions: it looks at 23 bits of an argument, one after the other, and so has
// eight million ways, at the end of each of which any number below 335 may have been called, all of which have a name.
// The number makes it another one.
func ShortProgram(number uint16) []byte {
	const bits = 23
	p := instruction(nil, loadWord, 0, 16) // seccomp_data.args[0]
	p = instruction(p, loadWord, 0, 0)     // seccomp_data.nr
	p = instruction(p, jumpIfMore, 2*bits+1, 335)
	for i := range uint32(bits) {
		p = instruction(p, loadWord, 0, 16)
		p = instruction(p, jumpAtBit, 0, 1<<i)
	}
	p = instruction(p, returns, 0, unix.SECCOMP_RET_ALLOW|uint32(number))
	return instruction(p, returns, 0, unix.SECCOMP_RET_ERRNO|uint32(number))
}

// filterChains has n threads more, and for each of them another filter of chains that are as long as the kernel takes
// them.
func filterChains(n, each int, program func(uint16) []byte) func(map[string][]byte, string) error {
	return func(files map[string][]byte, _ string) error {
		const chains = 8 // some more than 2^16 filters are refused for their number
		var all []*seccomp.SeccompFilter
		for range chains {
			for i := range each {
				f := &seccomp.SeccompFilter{Filter: program(uint16(len(all))), Flags: proto.Uint32(0)}
				if i > 0 {
					f.Prev = proto.Uint32(uint32(len(all) - 1))
				}
				all = append(all, f)
			}
		}
		files["seccomp.img"] = []byte(Image("SECCOMP", &seccomp.SeccompEntry{SeccompFilters: all}))
		tree := EntriesOf[*pstree.PstreeEntry](files["pstree.img"])
		filtered := map[string][]byte{}
		for i, entry := range tree {
			process := entry.(*pstree.PstreeEntry)
			core := EntriesOf[*criu_core.CoreEntry](files[fmt.Sprintf("core-%d.img",
				process.GetPid())])[0].(*criu_core.CoreEntry)
			Filtered(uint32(each - 1))(core)
			filtered[fmt.Sprintf("core-%d.img", process.GetPid())] = []byte(Image("CORE", core))
			thread := proto.Clone(core).(*criu_core.CoreEntry)
			thread.Tc = nil
			for j := range n / len(tree) {
				id := uint32(1000 + i*n + j)
				process.Threads = append(process.Threads, id)
				Filtered(uint32((j%chains+1)*each - 1 - j%each))(thread)
				filtered[fmt.Sprintf("core-%d.img", id)] = []byte(Image("CORE", thread))
			}
		}
		maps.Copy(files, filtered)
		files["pstree.img"] = []byte(Image("PSTREE", tree...))
		return nil
	}
}

// longChain is a chain of filters of one instruction each.
func longChain(number uint16) []byte {
	return instruction(nil, returns, 0, unix.SECCOMP_RET_ALLOW|uint32(number))
}
