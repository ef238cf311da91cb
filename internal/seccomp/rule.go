package seccomp

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const maxArgs = 6

// outcome is a test and how it has to end.
type outcome struct {
	test test
	want bool
}

// condition is one on an argument of 64 bits, by its halves: one of its ways is
// taken, of which all outcomes come true. not is its opposite in the same form.
type condition struct {
	index     uint
	ways, not [][]outcome
}

// rule is one of a profile for a call: all of its conditions, or an unconditional one.
type rule struct {
	conditions []condition
	action     action
}

// conditionOf reads a condition. On a narrow ABI only the lower half of an argument is looked at (libseccomp,
// _db_rule_gen_32).
func conditionOf(a specs.LinuxSeccompArg, narrow bool) (condition, error) {
	if a.Index >= maxArgs {
		return condition{}, fmt.Errorf("a system call has no argument %d", a.Index)
	}
	equal := func(mask, v uint64) (yes, no [][]outcome) {
		// Bits outside of the mask are ignored, as by libseccomp.
		v &= mask
		low := test{word: uint8(wordArgs + 2*a.Index), mask: uint32(mask), k: uint32(v)}
		high := test{word: low.word + 1, mask: uint32(mask >> 32), k: uint32(v >> 32)}
		if narrow {
			return [][]outcome{{{low, true}}}, [][]outcome{{{low, false}}}
		}
		return [][]outcome{{{high, true}, {low, true}}}, [][]outcome{{{high, false}}, {{low, false}}}
	}
	// greater than v, or its opposite
	greater := func(v uint64) (yes, no [][]outcome) {
		low := test{word: uint8(wordArgs + 2*a.Index), mask: allBits, greater: true, k: uint32(v)}
		if narrow {
			return [][]outcome{{{low, true}}}, [][]outcome{{{low, false}}}
		}
		above := test{word: low.word + 1, mask: allBits, greater: true, k: uint32(v >> 32)}
		same := test{word: low.word + 1, mask: allBits, k: uint32(v >> 32)}
		return [][]outcome{{{above, true}}, {{same, true}, {low, true}}},
			[][]outcome{{{above, false}, {same, false}}, {{same, true}, {low, false}}}
	}
	c, value := condition{index: a.Index}, a.Value
	if narrow {
		value = uint64(uint32(value))
	}
	always, never := [][]outcome{{}}, [][]outcome(nil)
	switch a.Op {
	case specs.OpEqualTo:
		c.ways, c.not = equal(^uint64(0), value)
	case specs.OpNotEqual:
		c.not, c.ways = equal(^uint64(0), value)
	case specs.OpMaskedEqual:
		c.ways, c.not = equal(a.Value, a.ValueTwo)
	case specs.OpGreaterThan:
		c.ways, c.not = greater(value)
	case specs.OpLessEqual:
		c.not, c.ways = greater(value)
	case specs.OpGreaterEqual:
		if c.ways, c.not = always, never; value > 0 {
			c.ways, c.not = greater(value - 1)
		}
	case specs.OpLessThan:
		if c.not, c.ways = always, never; value > 0 {
			c.not, c.ways = greater(value - 1)
		}
	default:
		return c, fmt.Errorf("operator %q is unknown", a.Op)
	}
	return c, nil
}

// rulesOf returns what runc makes of an entry of a profile for one name: with two
// conditions on one argument, a rule for each condition (libcontainer/seccomp, matchCall).
func rulesOf(args []specs.LinuxSeccompArg, do action, narrow bool) ([]rule, error) {
	var (
		all  []condition
		seen [maxArgs]bool
		each bool
	)
	for _, a := range args {
		c, err := conditionOf(a, narrow)
		if err != nil {
			return nil, err
		}
		each = each || seen[a.Index]
		seen[a.Index] = true
		all = append(all, c)
	}
	if !each {
		return []rule{{all, do}}, nil
	}
	var out []rule
	for _, c := range all {
		out = append(out, rule{[]condition{c}, do})
	}
	return out, nil
}

// function returns the rule for the same call as a function of another one. libseccomp
// puts the function's number in the place of a condition on the first argument and keeps the others.
func (r rule) function(number uint32) rule {
	is := []outcome{{test{word: wordArgs, mask: allBits, k: number}, true}}
	isNot := []outcome{{test{word: wordArgs, mask: allBits, k: number}, false}}
	out := rule{action: r.action, conditions: []condition{{ways: [][]outcome{is}, not: [][]outcome{isNot}}}}
	for _, c := range r.conditions {
		if c.index != 0 {
			out.conditions = append(out.conditions, c)
		}
	}
	return out
}
