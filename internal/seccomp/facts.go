package seccomp

import "math/bits"

// The words of struct seccomp_data, each of 32 bits: number, architecture, instruction
// pointer (two) and six arguments (two each).
const (
	wordNumber = 0
	wordArch   = 1
	wordArgs   = 4
	words      = dataSize / 4
	allBits    = ^uint32(0)
)

// test is a condition on a word: what is left of it under the mask equals k, or is greater
// than k. The other comparisons of BPF are these or their opposites.
type test struct {
	word    uint8
	greater bool
	mask, k uint32
}

// facts are what is known of a call's words.
type facts [words]fact

// fact is what is known of a word: the bits of known have those of value, it is in
// the range, and none of the exclusions is true. No two of these contradict each other.
type fact struct {
	known, value uint32
	low, high    uint32
	not          *exclusion
	rounds       uint8 // how often the exclusions were looked at to draw what follows, see tidy
}

// exclusion says that a word under the mask is not the value. Facts share their tails.
type exclusion struct {
	mask, value uint32
	next        *exclusion
	count       int // of them, this one included
}

// exclusions is how many there are, which is what a look at them costs.
func (f *fact) exclusions() int {
	if f.not == nil {
		return 0
	}
	return f.not.count
}

func unknown() fact                 { return fact{high: allBits} }
func exactly(v uint32) fact         { return fact{known: allBits, value: v, low: v, high: v} }
func between(low, high uint32) fact { f, _ := fact{low: low, high: high}.tidy(); return f }

// can says whether a word may be v.
func (f *fact) can(v uint32) bool {
	if v < f.low || v > f.high || (v^f.value)&f.known != 0 {
		return false
	}
	for e := f.not; e != nil; e = e.next {
		if v&e.mask == e.value {
			return false
		}
	}
	return true
}

// decide says whether the test has only one outcome, and which.
func (f *fact) decide(t test) (decided, outcome bool) {
	if t.greater {
		low, high := f.value&f.known&t.mask, (f.value&f.known|^f.known)&t.mask
		if t.mask == allBits {
			low, high = max(low, f.low), min(high, f.high)
		}
		return low > t.k || high <= t.k, low > t.k
	}
	switch {
	case t.k&^t.mask != 0, (f.value^t.k)&f.known&t.mask != 0:
		return true, false
	case t.mask&^f.known == 0:
		return true, true
	case t.mask == allBits && (t.k < f.low || t.k > f.high):
		return true, false
	}
	for e := f.not; e != nil; e = e.next {
		if e.mask&^t.mask == 0 && t.k&e.mask == e.value {
			return true, false
		}
	}
	return false, false
}

// assume returns what is known if the test has that outcome; it is not ok if it cannot have it.
// The test is one that was not decided.
func (f fact) assume(t test, outcome bool) (_ fact, ok bool) {
	switch {
	case t.greater && outcome:
		f.low = max(f.low, t.k+1) // a word is not less than under a mask
	case t.greater:
		if t.mask == allBits {
			f.high = min(f.high, t.k)
		}
	case outcome:
		f.known, f.value = f.known|t.mask, f.value&f.known&^t.mask|t.k
	default:
		f.not = &exclusion{t.mask, t.k, f.not, f.exclusions() + 1}
		// The one bit that is left must be the other one.
		if free := t.mask &^ f.known; bits.OnesCount32(free) == 1 {
			f.known, f.value = f.known|free, f.value&f.known|^t.k&free
		}
	}
	return f.tidy()
}

// tidy draws what follows from one kind of knowledge for the others.
func (f fact) tidy() (_ fact, ok bool) {
	f.low, f.high = max(f.low, f.value&f.known), min(f.high, f.value&f.known|^f.known)
	for f.rounds = 1; f.rounds <= 64; f.rounds++ { // more would be no mistake, only work
		if f.low < f.high && f.excludes(f.low) {
			f.low++
		} else if f.low < f.high && f.excludes(f.high) {
			f.high--
		} else {
			break
		}
	}
	if f.low > f.high {
		return f, false
	}
	// The bits above the first one in which the ends of the range differ.
	same := ^uint32(0) << bits.Len32(f.low^f.high)
	if (f.value^f.low)&f.known&same != 0 {
		return f, false
	}
	f.known, f.value = f.known|same, f.value&f.known|f.low&same
	if f.known == allBits {
		f.low, f.high = f.value, f.value
		return f, !f.excludes(f.value)
	}
	return f, true
}

func (f *fact) excludes(v uint32) bool {
	for e := f.not; e != nil; e = e.next {
		if v&e.mask == e.value {
			return true
		}
	}
	return false
}
