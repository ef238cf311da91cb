package seccomp

import (
	"fmt"
	"strings"
	"sync"

	"github.com/elastic/go-seccomp-bpf/arch"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// abi is a way in which a process of a machine can call the kernel.
type abi struct {
	name        string
	arch        specs.Arch
	audit       uint32 // what the kernel says the architecture is
	first, last uint32 // the numbers that mean this ABI
	// narrow says that libseccomp looks at the lower 32 bits of arguments; short, that there are no others.
	narrow, short bool
	numbers       map[string]uint32
}

const (
	x32Bit   = 0x40000000
	noNumber = allBits // no system call: what a tracer sets to skip one
)

// later are calls that the tables, which are those of Linux 6.15, lack. Their numbers are the
// same everywhere (arch/*/tools/syscall*.tbl).
var later = map[string]uint32{"file_getattr": 468, "file_setattr": 469, "listns": 470, "rseq_slice_yield": 471}

// Calls that the tables have and the ABI does not: x32 has none of those
// of 64 bits only, and 64-bit ARM none that exist for the sake of 32-bit times.
var notX32 = []string{
	"_sysctl", "create_module", "epoll_ctl_old", "epoll_wait_old", "get_kernel_syms", "get_thread_area",
	"nfsservctl", "query_module", "set_thread_area", "uselib", "vserver",
}

// machines are the ABIs of a kernel, its own first, by GOARCH. A call cannot arrive as of another architecture.
var machines = map[string]func() []abi{
	"amd64": sync.OnceValue(func() []abi {
		return []abi{
			{name: "x86_64", arch: specs.ArchX86_64, audit: uint32(arch.X86_64.ID), last: x32Bit - 1,
				numbers: numbersOf(arch.X86_64, 0)},
			{name: "x32", arch: specs.ArchX32, audit: uint32(arch.X86_64.ID), first: x32Bit, last: noNumber - 1, narrow: true,
				numbers: numbersOf(arch.X32, x32Bit, notX32...)},
			{name: "x86", arch: specs.ArchX86, audit: uint32(arch.I386.ID), last: noNumber - 1, narrow: true, short: true,
				numbers: numbersOf(arch.I386, 0)},
		}
	}),
	"arm64": sync.OnceValue(func() []abi {
		return []abi{
			{name: "aarch64", arch: specs.ArchAARCH64, audit: uint32(arch.AARCH64.ID), last: noNumber - 1,
				numbers: aarch64()},
			{name: "arm", arch: specs.ArchARM, audit: uint32(arch.ARM.ID), last: noNumber - 1, narrow: true, short: true,
				numbers: numbersOf(arch.ARM, 0)},
		}
	}),
}

// numbersOf turns a table around. A name with two numbers, as in x32, has
// the higher one: the lower one is that of 64-bit processes.
func numbersOf(a *arch.Info, add uint32, without ...string) map[string]uint32 {
	out := make(map[string]uint32, len(a.SyscallNumbers)+len(later))
	for number, name := range a.SyscallNumbers {
		out[name] = max(out[name], add|uint32(number))
	}
	for name, number := range later {
		out[name] = add | number
	}
	for _, name := range without {
		delete(out, name)
	}
	return out
}

func aarch64() map[string]uint32 {
	out := numbersOf(arch.AARCH64, 0, "arch_specific_syscall")
	for name, number := range out {
		if number >= 403 && number <= 423 && strings.HasSuffix(name, "64") {
			delete(out, name)
		}
	}
	out["newfstatat"] = out["fstatat"] // by its name elsewhere, which is libseccomp's
	delete(out, "fstatat")
	return out
}

// known are the architectures of the OCI specification; those of another machine make no difference on this one.
var known = map[specs.Arch]bool{
	specs.ArchX86: true, specs.ArchX86_64: true, specs.ArchX32: true, specs.ArchARM: true, specs.ArchAARCH64: true,
	specs.ArchMIPS: true, specs.ArchMIPS64: true, specs.ArchMIPS64N32: true, specs.ArchMIPSEL: true,
	specs.ArchMIPSEL64:    true,
	specs.ArchMIPSEL64N32: true, specs.ArchPPC: true, specs.ArchPPC64: true, specs.ArchPPC64LE: true, specs.ArchS390: true,
	specs.ArchS390X: true, specs.ArchRISCV64: true, specs.ArchLOONGARCH64: true, specs.ArchPARISC: true,
	specs.ArchPARISC64: true,
	specs.ArchM68K:     true, specs.ArchSH: true, specs.ArchSHEB: true,
}

func abisOf(machine string) ([]abi, error) {
	abis, ok := machines[machine]
	if !ok {
		return nil, fmt.Errorf("filters of a machine of type %s cannot be judged", machine)
	}
	return abis(), nil
}

// multiplexed are the calls that x86 also has as a function of another one, whose number is the first
// argument (linux/net.h, linux/ipc.h). libseccomp makes a rule for either of the one that a profile has.
var multiplexed = map[string]struct {
	by       string
	function uint32
}{
	"socket": {"socketcall", 1}, "bind": {"socketcall", 2}, "connect": {"socketcall", 3}, "listen": {"socketcall", 4},
	"accept": {"socketcall", 5}, "getsockname": {"socketcall", 6}, "getpeername": {"socketcall", 7},
	"socketpair": {"socketcall", 8}, "send": {"socketcall", 9}, "recv": {"socketcall", 10}, "sendto": {"socketcall", 11},
	"recvfrom": {"socketcall", 12}, "shutdown": {"socketcall", 13}, "setsockopt": {"socketcall", 14},
	"getsockopt": {"socketcall", 15}, "sendmsg": {"socketcall", 16}, "recvmsg": {"socketcall", 17},
	"accept4": {"socketcall", 18}, "recvmmsg": {"socketcall", 19}, "sendmmsg": {"socketcall", 20},

	"semop": {"ipc", 1}, "semget": {"ipc", 2}, "semctl": {"ipc", 3}, "semtimedop": {"ipc", 4},
	"msgsnd": {"ipc", 11}, "msgrcv": {"ipc", 12}, "msgget": {"ipc", 13}, "msgctl": {"ipc", 14},
	"shmat": {"ipc", 21}, "shmdt": {"ipc", 22}, "shmget": {"ipc", 23}, "shmctl": {"ipc", 24},
}
