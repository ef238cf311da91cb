package seccomp

import (
	"context"

	"golang.org/x/sys/unix"
)

// value is what a register holds: a constant, a word of the call under a mask, or
// something that is not followed.
type value struct {
	kind kind
	word uint8
	bits uint32 // the constant, or the mask
}

type kind uint8

const (
	constant kind = iota
	masked
	opaque
)

// registers are those of BPF. All begin as zero, as in the kernel.
type registers struct {
	a, x    value
	scratch [scratchWords]value
}

// walker follows programs, and does all else that takes work. Its budget is how much it may do, in the instructions
// that could be followed instead.
type walker struct {
	ctx    context.Context
	budget int
	told   int      // the budget when the context was last asked
	spare  []*facts // to be used again
}

const (
	// looks is how many exclusions are looked at in the time of one instruction.
	looks = 32
	// askAfter is how much work is done before the context is asked whether there is time for more.
	askAfter = 1 << 14
)

// spend takes work from the budget, and says whether there was enough. A context that has ended leaves nothing.
func (w *walker) spend(n int) bool {
	w.budget -= n
	if w.told-w.budget >= askAfter {
		w.told = w.budget
		if w.ctx.Err() != nil {
			w.budget = -1
		}
	}
	return w.budget >= 0
}

// newWalker returns a walker with a budget.
func newWalker(ctx context.Context, budget int) *walker {
	return &walker{ctx: ctx, budget: budget, told: budget}
}

// decide is that of a fact, at its cost.
func (w *walker) decide(f *fact, t test) (decided, outcome bool) {
	w.spend(f.exclusions() / looks)
	return f.decide(t)
}

// assume is that of a fact, at its cost.
func (w *walker) assume(f *fact, t test, outcome bool) (fact, bool) {
	next, ok := f.assume(t, outcome)
	w.spend(int(next.rounds) * next.exclusions() / looks)
	return next, ok
}

// copy returns facts that can be changed, until they are put back.
func (w *walker) copy(f *facts) *facts {
	if len(w.spare) == 0 {
		w.spare = append(w.spare, new(facts))
	}
	out := w.spare[len(w.spare)-1]
	w.spare = w.spare[:len(w.spare)-1]
	*out = *f
	return out
}

func (w *walker) put(f *facts) { w.spare = append(w.spare, f) }

// walk calls leaf for every way through the program that a call of these facts can take, with what is known of the call
// at its end, which leaf must not keep, and what the program returns. An unknown return is one that allows. It ends
// early, and says so by false, when leaf returns false or the budget is spent.
func (w *walker) walk(p *Program, f *facts, leaf func(f *facts, ret uint32) bool) bool {
	own := w.copy(f)
	defer w.put(own)
	return w.from(p.code, 0, registers{}, own, leaf)
}

// from goes on from an instruction. It changes f.
func (w *walker) from(code []instruction, pc int, r registers, f *facts, leaf func(*facts, uint32) bool) bool {
	for {
		if !w.spend(1) {
			return false
		}
		in := code[pc]
		pc++
		switch in.op & 7 {
		case unix.BPF_RET:
			ret := in.k
			if in.op == unix.BPF_RET|unix.BPF_A {
				if ret = retAllow; r.a.kind == constant {
					ret = r.a.bits
				}
			}
			return leaf(f, ret)
		case unix.BPF_LD, unix.BPF_LDX:
			r.load(in, f)
		case unix.BPF_ST:
			r.scratch[in.k] = r.a
		case unix.BPF_STX:
			r.scratch[in.k] = r.x
		case unix.BPF_MISC:
			if in.op == unix.BPF_MISC|unix.BPF_TAX {
				r.x = r.a
			} else {
				r.a = r.x
			}
		case unix.BPF_ALU:
			r.compute(in)
		case unix.BPF_JMP:
			if in.op == unix.BPF_JMP|unix.BPF_JA {
				pc += int(in.k)
				continue
			}
			t, swapped, followed := r.condition(in)
			jt, jf := pc+int(in.jt), pc+int(in.jf)
			if swapped {
				jt, jf = jf, jt
			}
			if !followed {
				taken := w.copy(f)
				goOn := w.from(code, jt, r, taken, leaf)
				if w.put(taken); !goOn {
					return false
				}
				pc = jf
				continue
			}
			decided, outcome := w.decide(&f[t.word], t)
			if !decided {
				if yes, ok := w.assume(&f[t.word], t, true); ok {
					taken := w.copy(f)
					taken[t.word] = yes
					goOn := w.from(code, jt, r, taken, leaf)
					if w.put(taken); !goOn {
						return false
					}
				}
				no, ok := w.assume(&f[t.word], t, false)
				if !ok {
					return true
				}
				f[t.word] = no
			}
			if pc = jf; decided && outcome {
				pc = jt
			}
		}
	}
}

func (r *registers) load(in instruction, f *facts) {
	v := value{kind: constant, bits: in.k}
	switch in.op &^ 7 {
	case unix.BPF_W | unix.BPF_ABS:
		word := uint8(in.k / 4)
		if v = (value{masked, word, allBits}); f[word].known == allBits {
			v = value{kind: constant, bits: f[word].value}
		}
	case unix.BPF_W | unix.BPF_LEN:
		v.bits = dataSize
	case unix.BPF_MEM:
		v = r.scratch[in.k]
	}
	if in.op&7 == unix.BPF_LDX {
		r.x = v
	} else {
		r.a = v
	}
}

// compute follows what is done with constants, and masks.
func (r *registers) compute(in instruction) {
	operand := value{kind: constant, bits: in.k}
	if in.op&unix.BPF_X != 0 {
		operand = r.x
	}
	op := in.op & 0xf0
	switch {
	case op == unix.BPF_AND && r.a.kind == masked && operand.kind == constant:
		r.a.bits &= operand.bits
	case op == unix.BPF_AND && r.a.kind == constant && operand.kind == masked:
		operand.bits &= r.a.bits
		r.a = operand
	case r.a.kind != constant, op != unix.BPF_NEG && operand.kind != constant, op == unix.BPF_DIV && operand.bits == 0:
		r.a = value{kind: opaque}
	default:
		r.a.bits = compute(op, r.a.bits, operand.bits)
	}
}

func compute(op uint16, a, b uint32) uint32 {
	switch op {
	case unix.BPF_ADD:
		return a + b
	case unix.BPF_SUB:
		return a - b
	case unix.BPF_MUL:
		return a * b
	case unix.BPF_DIV:
		return a / b
	case unix.BPF_AND:
		return a & b
	case unix.BPF_OR:
		return a | b
	case unix.BPF_XOR:
		return a ^ b
	case unix.BPF_LSH:
		return a << (b & 31)
	case unix.BPF_RSH:
		return a >> (b & 31)
	default: // BPF_NEG
		return -a
	}
}

// condition returns a jump's condition as a test on a word, or its opposite.
func (r *registers) condition(in instruction) (t test, opposite, followed bool) {
	operand := value{kind: constant, bits: in.k}
	if in.op&unix.BPF_X != 0 {
		operand = r.x
	}
	if r.a.kind == opaque || operand.kind != constant {
		return t, false, false
	}
	t = test{word: r.a.word, mask: r.a.bits, k: operand.bits}
	if r.a.kind == constant {
		// As a test on nothing whose outcome is known.
		t.mask = 0
		if !compare(in.op&0xf0, r.a.bits, operand.bits) {
			t.k = 1
		} else {
			t.k = 0
		}
		return t, false, true
	}
	switch in.op & 0xf0 {
	case unix.BPF_JGT:
		t.greater = true
	case unix.BPF_JGE:
		if t.k == 0 {
			return test{word: t.word}, false, true // always
		}
		t.greater = true
		t.k--
	case unix.BPF_JSET:
		t.mask &= t.k
		t.k = 0
		return t, true, true
	}
	return t, false, true
}

func compare(op uint16, a, b uint32) bool {
	switch op {
	case unix.BPF_JGT:
		return a > b
	case unix.BPF_JGE:
		return a >= b
	case unix.BPF_JSET:
		return a&b != 0
	default: // BPF_JEQ
		return a == b
	}
}
