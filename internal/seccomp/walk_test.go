package seccomp

import (
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// anyProgram makes a program of all instructions that another implementation reads as the kernel does.
func anyProgram(r *rand.Rand) []instruction {
	n := 4 + r.IntN(20)
	var code []instruction
	for i := range n {
		rest := n - i - 1
		k := []uint32{0, 1, 2, 3, 0xff, 0x40000000, allBits, r.Uint32(), uint32(r.IntN(8))}[r.IntN(9)]
		var in instruction
		switch r.IntN(12) {
		case 0, 1, 2:
			in = load(uint32(r.IntN(words)))
		case 3:
			in = instruction{op: unix.BPF_ALU | unix.BPF_AND, k: k}
		case 4:
			op := []uint16{unix.BPF_ADD, unix.BPF_SUB, unix.BPF_MUL, unix.BPF_OR, unix.BPF_XOR, unix.BPF_AND}[r.IntN(6)]
			in = instruction{op: unix.BPF_ALU | op | uint16(r.IntN(2))<<3, k: k}
		case 5:
			in = []instruction{
				{op: unix.BPF_LD | unix.BPF_IMM, k: k}, {op: unix.BPF_LDX | unix.BPF_IMM, k: k},
				{op: unix.BPF_MISC | unix.BPF_TAX}, {op: unix.BPF_MISC | unix.BPF_TXA},
				{op: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
				{op: unix.BPF_ALU | unix.BPF_LSH, k: k % 32}, {op: unix.BPF_ALU | unix.BPF_RSH, k: k % 32},
				{op: unix.BPF_ALU | unix.BPF_DIV, k: k | 1},
				{op: unix.BPF_ST, k: k % 16}, {op: unix.BPF_STX, k: k % 16}, {op: unix.BPF_LD | unix.BPF_MEM, k: k % 16},
				{op: unix.BPF_LDX | unix.BPF_MEM, k: k % 16},
			}[r.IntN(12)]
		case 6:
			if rest > 1 {
				in = instruction{op: unix.BPF_JMP | unix.BPF_JA, k: uint32(r.IntN(rest))}
				break
			}
			fallthrough
		default:
			if rest == 0 {
				in = ret(retErrno)
				break
			}
			op := []uint16{unix.BPF_JEQ, unix.BPF_JGT, unix.BPF_JGE, unix.BPF_JSET}[r.IntN(4)]
			in = instruction{unix.BPF_JMP | op | uint16(r.IntN(8)/7)<<3, uint8(r.IntN(rest)), uint8(r.IntN(rest)), k}
		}
		code = append(code, in)
	}
	// Every way out returns something else.
	for i := range code {
		if i == len(code)-1 || r.IntN(12) == 0 {
			code[i] = ret(uint32(i))
			if r.IntN(20) == 0 {
				code[i] = instruction{op: unix.BPF_RET | unix.BPF_A}
			}
		}
	}
	return code
}

// TestEveryWay follows programs with unknown words. Whatever the words are, one of
// the ways that are found is the one that they take; with all words known there is no other.
func TestEveryWay(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	tried := 0
	for range 20000 {
		code := anyProgram(r)
		p, err := Parse(raw(code...))
		if err != nil {
			continue // it reads what it did not write
		}
		type way struct {
			facts facts
			ret   uint32
		}
		var ways []way
		var none facts
		for i := range none {
			none[i] = unknown()
		}
		w := newWalker(t.Context(), maxSteps)
		w.walk(p, &none, func(f *facts, ret uint32) bool {
			ways = append(ways, way{*f, ret})
			return true
		})
		for range 5 {
			var d data
			for i := range d {
				d[i] = interesting(r, code)
			}
			want := run(t, code, d)
			found := slices.ContainsFunc(ways, func(w way) bool {
				for i := range d {
					if !w.facts[i].can(d[i]) {
						return false
					}
				}
				return w.ret == want || w.ret == retAllow
			})
			if !found {
				t.Fatalf("%v\nwith %#x returns %#x, which is none of %d ways", code, d, want, len(ways))
			}
			f := d.exact()
			w.walk(p, &f, func(_ *facts, got uint32) bool {
				if got != want && got != retAllow {
					t.Fatalf("%v\nwith %#x returns %#x, want %#x", code, d, got, want)
				}
				return true
			})
			tried++
		}
	}
	if tried < 10000 {
		t.Errorf("only %d tried", tried)
	}
}

// TestFacts checks that what is concluded of a word is true of every value for which the tests came out as supposed.
func TestFacts(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 20000 {
		f, v := unknown(), uint32(r.IntN(64))
		if r.IntN(2) == 0 {
			v |= 0xfff0_0000
		}
		for range 1 + r.IntN(8) {
			c := test{greater: r.IntN(2) == 0, mask: allBits, k: uint32(r.IntN(64))}
			if r.IntN(3) == 0 {
				c.mask = uint32(r.IntN(64))
			}
			if r.IntN(4) == 0 {
				c.k |= 0xfff0_0000
			}
			holds := v&c.mask == c.k
			if c.greater {
				holds = v&c.mask > c.k
			}
			if decided, outcome := f.decide(c); decided {
				if outcome != holds {
					t.Fatalf("%+v of %#x with %+v: decided as %t", c, v, f, outcome)
				}
				continue
			}
			next, ok := f.assume(c, holds)
			if !ok || !next.can(v) {
				t.Fatalf("%+v of %#x with %+v: supposed %t, and then it cannot be", c, v, f, holds)
			}
			f = next
		}
	}
}
