package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	instructionSize = 8  // struct sock_filter
	dataSize        = 64 // struct seccomp_data
	scratchWords    = unix.BPF_MEMWORDS
)

// instruction is one of classic BPF, struct sock_filter.
type instruction struct {
	op     uint16
	jt, jf uint8
	k      uint32
}

// Program is a filter that the kernel would take.
type Program struct{ code []instruction }

// Len is the number of its instructions.
func (p *Program) Len() int { return len(p.code) }

// Parse reads a filter as CRIU records it, an array of struct sock_filter, and refuses what
// the kernel refuses (net/core/filter.c, bpf_check_classic, and kernel/seccomp.c, seccomp_check_filter).
func Parse(raw []byte) (*Program, error) {
	n := len(raw) / instructionSize
	if len(raw)%instructionSize != 0 || n == 0 || n > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("a filter has %d bytes: it is no array of 1 to %d instructions", len(raw), unix.BPF_MAXINSNS)
	}
	p := &Program{code: make([]instruction, n)}
	for i := range p.code {
		b := raw[i*instructionSize:]
		in := instruction{binary.NativeEndian.Uint16(b), b[2], b[3], binary.NativeEndian.Uint32(b[4:])}
		if err := in.check(n - i - 1); err != nil {
			return nil, fmt.Errorf("instruction %d: %w", i, err)
		}
		p.code[i] = in
	}
	if last := p.code[n-1].op; last != unix.BPF_RET|unix.BPF_K && last != unix.BPF_RET|unix.BPF_A {
		return nil, errors.New("a filter does not end with a return")
	}
	return p, p.checkScratch()
}

// check checks an instruction that rest others follow.
func (in instruction) check(rest int) error {
	switch in.op {
	case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
		if in.k >= dataSize || in.k%4 != 0 {
			return fmt.Errorf("it loads from offset %d, where a system call has no word", in.k)
		}
	case unix.BPF_LD | unix.BPF_W | unix.BPF_LEN, unix.BPF_LDX | unix.BPF_W | unix.BPF_LEN,
		unix.BPF_LD | unix.BPF_IMM, unix.BPF_LDX | unix.BPF_IMM,
		unix.BPF_MISC | unix.BPF_TAX, unix.BPF_MISC | unix.BPF_TXA,
		unix.BPF_RET | unix.BPF_K, unix.BPF_RET | unix.BPF_A,
		unix.BPF_ALU | unix.BPF_ADD | unix.BPF_K, unix.BPF_ALU | unix.BPF_ADD | unix.BPF_X,
		unix.BPF_ALU | unix.BPF_SUB | unix.BPF_K, unix.BPF_ALU | unix.BPF_SUB | unix.BPF_X,
		unix.BPF_ALU | unix.BPF_MUL | unix.BPF_K, unix.BPF_ALU | unix.BPF_MUL | unix.BPF_X,
		unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, unix.BPF_ALU | unix.BPF_AND | unix.BPF_X,
		unix.BPF_ALU | unix.BPF_OR | unix.BPF_K, unix.BPF_ALU | unix.BPF_OR | unix.BPF_X,
		unix.BPF_ALU | unix.BPF_XOR | unix.BPF_K, unix.BPF_ALU | unix.BPF_XOR | unix.BPF_X,
		unix.BPF_ALU | unix.BPF_LSH | unix.BPF_X, unix.BPF_ALU | unix.BPF_RSH | unix.BPF_X,
		unix.BPF_ALU | unix.BPF_DIV | unix.BPF_X, unix.BPF_ALU | unix.BPF_NEG:
	case unix.BPF_ALU | unix.BPF_DIV | unix.BPF_K:
		if in.k == 0 {
			return errors.New("it divides by zero")
		}
	case unix.BPF_ALU | unix.BPF_LSH | unix.BPF_K, unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K:
		if in.k >= 32 {
			return fmt.Errorf("it shifts by %d bits", in.k)
		}
	case unix.BPF_LD | unix.BPF_MEM, unix.BPF_LDX | unix.BPF_MEM, unix.BPF_ST, unix.BPF_STX:
		if in.k >= scratchWords {
			return fmt.Errorf("scratch word %d does not exist", in.k)
		}
	case unix.BPF_JMP | unix.BPF_JA:
		if in.k >= uint32(rest) {
			return errors.New("it jumps out of the filter")
		}
	case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_X,
		unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGT | unix.BPF_X,
		unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_X,
		unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, unix.BPF_JMP | unix.BPF_JSET | unix.BPF_X:
		if int(in.jt) >= rest || int(in.jf) >= rest {
			return errors.New("it jumps out of the filter")
		}
	default:
		return fmt.Errorf("code %#x is none that seccomp knows", in.op)
	}
	return nil
}

// checkScratch refuses a read of scratch memory that was not written on every way to it, as
// the kernel does (check_load_and_stores). There is no jump backwards.
func (p *Program) checkScratch() error {
	valid := make([]uint16, len(p.code)+1) // of the ways that jump here, what all have written
	for i := range valid {
		valid[i] = ^uint16(0)
	}
	written := uint16(0)
	for i, in := range p.code {
		written &= valid[i]
		switch {
		case in.op == unix.BPF_ST, in.op == unix.BPF_STX:
			written |= 1 << in.k
		case in.op == unix.BPF_LD|unix.BPF_MEM, in.op == unix.BPF_LDX|unix.BPF_MEM:
			if written&(1<<in.k) == 0 {
				return fmt.Errorf("instruction %d: it reads scratch word %d, which was not written", i, in.k)
			}
		case in.op == unix.BPF_JMP|unix.BPF_JA:
			valid[i+1+int(in.k)] &= written
			written = ^uint16(0)
		case in.op&7 == unix.BPF_JMP:
			valid[i+1+int(in.jt)] &= written
			valid[i+1+int(in.jf)] &= written
			written = ^uint16(0)
		}
	}
	return nil
}
