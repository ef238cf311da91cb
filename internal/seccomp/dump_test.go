package seccomp

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// recorded are the profiles of which there are filters of a real runtime, see testdata/README.md.
var recorded = []string{"admin", "args", "default", "deny", "log", "none", "podman"}

func readProfile(t testing.TB, name string) *specs.LinuxSeccomp {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	s := &specs.LinuxSeccomp{}
	if err := json.Unmarshal(content, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func readFilter(t testing.TB, name string) []instruction {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name+".bpf"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(content)
	if err != nil {
		t.Fatal(err)
	}
	return p.code
}

func newProfile(t testing.TB, s *specs.LinuxSeccomp) *Profile {
	t.Helper()
	p, err := NewProfile(s, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// raw is a filter as CRIU records it.
func raw(code ...instruction) []byte {
	var out []byte
	for _, in := range code {
		out = binary.NativeEndian.AppendUint16(out, in.op)
		out = append(out, in.jt, in.jf)
		out = binary.NativeEndian.AppendUint32(out, in.k)
	}
	return out
}

func program(t testing.TB, code ...instruction) *Program {
	t.Helper()
	p, err := Parse(raw(code...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The instructions that filters consist of.
func load(word uint32) instruction {
	return instruction{op: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, k: word * 4}
}
func ret(v uint32) instruction { return instruction{op: unix.BPF_RET | unix.BPF_K, k: v} }
func and(mask uint32) instruction {
	return instruction{op: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, k: mask}
}
func equal(v uint32, jt, jf uint8) instruction {
	return instruction{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, jt, jf, v}
}

// first puts a rule for one call before a filter: it returns v if all the words are as given.
func first(code []instruction, v uint32, is map[uint32]uint32) []instruction {
	var out []instruction
	n := uint8(2 * len(is))
	for word, value := range is {
		n -= 2
		out = append(out, load(word), equal(value, 0, n+1))
	}
	return append(append(out, ret(v)), code...)
}

// call is a system call as the kernel puts it before a filter.
type data [words]uint32

func newCall(abi abi, number uint32, args ...uint64) data {
	d := data{wordNumber: number, wordArch: abi.audit}
	for i, a := range args {
		d[wordArgs+2*i], d[wordArgs+2*i+1] = uint32(a), uint32(a>>32)
	}
	return d
}

// exact are facts that leave nothing open.
func (d data) exact() (f facts) {
	for i := range f {
		f[i] = exactly(d[i])
	}
	return f
}

// run runs a filter in another implementation of BPF, which reads words as from a network.
func run(t testing.TB, code []instruction, d data) uint32 {
	t.Helper()
	var list []bpf.RawInstruction
	for _, in := range code {
		list = append(list, bpf.RawInstruction{Op: in.op, Jt: in.jt, Jf: in.jf, K: in.k})
	}
	dis, ok := bpf.Disassemble(list)
	if !ok {
		t.Fatal("the filter has instructions that are none")
	}
	vm, err := bpf.NewVM(dis)
	if err != nil {
		t.Fatal(err)
	}
	var in []byte
	for _, w := range d {
		in = binary.BigEndian.AppendUint32(in, w)
	}
	v, err := vm.Run(in)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(v)
}

// interesting is a word that a filter may ask for, or any other one.
func interesting(r *rand.Rand, code []instruction) uint32 {
	switch k := code[r.IntN(len(code))].k; r.IntN(6) {
	case 0:
		return r.Uint32()
	case 1:
		return uint32(r.IntN(500))
	case 2:
		return k + 1
	case 3:
		return k - 1
	case 4:
		return 0
	default:
		return k
	}
}
