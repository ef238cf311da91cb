package seccomp

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Grant is what a filter lets through and the profile does not.
type Grant struct {
	// Syscall is the name of a system call, with the ABI if it is not the machine's own.
	Syscall string
	// Found is what the filter does with it, Allowed what the profile wants.
	Found, Allowed string
	// Some says that it is let through with some arguments, not with all.
	Some bool
}

// errTooComplex is returned for filters that nobody writes.
var errTooComplex = errors.New("a filter has too many ways through it to be judged")

// What following filters may cost, in instructions: one filter, and all filters of a
// checkpoint. containerd's default profile takes ten thousand, the largest ones some
// hundred thousand.
const (
	maxSteps    = 1 << 20
	maxStepsAll = 4 << 20
)

// Comparison compares the filters of one checkpoint with a profile, each only once.
type Comparison struct {
	profile *Profile
	steps   int
	known   map[*Program]result
}

// key is a call: an ABI of the profile and a number, or none for all unknown numbers.
type key struct {
	abi    int
	number uint32
}

type result struct {
	grants map[key]Grant
	err    error
}

// NewComparison returns a comparison of filters with p.
func NewComparison(p *Profile) *Comparison {
	return &Comparison{profile: p, steps: maxStepsAll, known: map[*Program]result{}}
}

// Grants returns what a thread with these filters could call and the profile does not allow, the machine's
// own ABI first. A call is held back if one of the filters does so; the order of
// the filters does not matter, except that the first is looked at first.
func (c *Comparison) Grants(chain []*Program) ([]Grant, error) {
	var left map[key]Grant
	var failed error
	for _, p := range chain {
		r, ok := c.known[p]
		if !ok {
			r.grants, r.err = c.grants(p)
			c.known[p] = r
		}
		if r.err != nil { // it may hold nothing back
			failed = r.err
			continue
		}
		if left == nil {
			left = maps.Clone(r.grants)
		}
		for k := range left {
			if _, ok := r.grants[k]; !ok {
				delete(left, k)
			}
		}
		if len(left) == 0 {
			return nil, nil
		}
	}
	if left == nil {
		if failed == nil {
			failed = errors.New("there is no filter")
		}
		return nil, failed
	}
	keys := slices.SortedFunc(maps.Keys(left), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.abi, b.abi), cmp.Compare(a.number, b.number))
	})
	out := make([]Grant, 0, len(keys))
	for _, k := range keys {
		out = append(out, left[k])
	}
	return out, nil
}

// grants compares one filter.
func (c *Comparison) grants(p *Program) (map[key]Grant, error) {
	w := &walker{budget: min(maxSteps, c.steps)}
	defer func(before int) { c.steps -= before - max(w.budget, 0) }(w.budget)
	out := map[key]Grant{}
	for i := range c.profile.abis {
		a := &c.profile.abis[i]
		for j := range a.calls {
			if g, ok := w.known(p, a, &a.calls[j]); !ok {
				out[key{i, a.calls[j].number}] = g.of(a.name, i)
			}
		}
		if g, ok := w.others(p, a); !ok {
			out[key{i, noNumber}] = g.of(a.name, i)
		}
		if w.budget < 0 {
			return nil, errTooComplex
		}
	}
	return out, nil
}

// of names the ABI in a grant.
func (g Grant) of(abi string, i int) Grant {
	if i > 0 {
		g.Syscall += " (" + abi + ")"
	}
	return g
}

// known compares what happens to a call with a number that the profile may have rules for.
func (w *walker) known(p *Program, a *profiled, c *call) (Grant, bool) {
	if c.most == allowed {
		return Grant{}, true
	}
	grant, ok := Grant{Syscall: c.name, Some: len(c.rules) > 0}, true
	f := a.facts(exactly(c.number))
	ended := w.walk(p, &f, func(f *facts, ret uint32) bool {
		s := strengthOf(ret)
		if s >= c.most {
			return true
		}
		if want, stronger := c.stronger(w, f, s); stronger {
			grant.Found, grant.Allowed, ok = retName(ret), want.name, false
		}
		return ok
	})
	return grant, ok && ended
}

// others compares what happens to calls with numbers that nobody knows.
func (w *walker) others(p *Program, a *profiled) (Grant, bool) {
	if a.other.strength == allowed {
		return Grant{}, true
	}
	grant, ok := Grant{}, true
	f := a.facts(between(a.first, a.last))
	ended := w.walk(p, &f, func(f *facts, ret uint32) bool {
		if strengthOf(ret) >= a.other.strength {
			return true
		}
		if number, is := a.unknown(&f[wordNumber]); is {
			grant, ok = Grant{Syscall: fmt.Sprintf("unknown system call %d", number), Found: retName(ret), Allowed: a.other.name}, false
		}
		return ok
	})
	return grant, ok && ended
}

// unknown returns a number that a call may have and the tables do not. It finds one where there is one: it
// tries more numbers than the tables have, and then takes it that there is one.
func (a *profiled) unknown(f *fact) (uint32, bool) {
	for i, n := 0, f.low; n <= f.high; i, n = i+1, n+1 {
		if i > 8*len(a.named)+1<<16 || f.can(n) && !a.named[n] {
			return n, true
		}
		if n == allBits {
			break
		}
	}
	return 0, false
}

// facts are those of a call of the ABI with the number.
func (a *profiled) facts(number fact) (f facts) {
	for i := range f {
		f[i] = unknown()
		if a.short && i >= wordArgs && i%2 == 1 {
			f[i] = exactly(0) // the kernel widens the arguments (syscall_get_arguments)
		}
	}
	f[wordNumber], f[wordArch] = number, exactly(a.audit)
	return f
}

// stronger says whether the profile may want something stronger than s for a call of these facts. Of
// several rules that match, the strongest is taken.
func (c *call) stronger(w *walker, f *facts, s strength) (action, bool) {
	for _, r := range c.rules {
		if r.action.strength > s && w.match(f, r.conditions) {
			return r.action, true
		}
	}
	if c.other.strength > s && w.miss(f, c.rules) {
		return c.other, true
	}
	return action{}, false
}

// match says whether all conditions may be met by calls of these facts.
func (w *walker) match(f *facts, conditions []condition) bool {
	if len(conditions) == 0 {
		return true
	}
	for _, way := range conditions[0].ways {
		if next, ok := w.suppose(f, way); ok {
			can := w.match(next, conditions[1:])
			if w.put(next); can {
				return true
			}
		}
	}
	return false
}

// miss says whether calls of these facts may be matched by none of the rules.
func (w *walker) miss(f *facts, rules []rule) bool {
	if len(rules) == 0 {
		return true
	}
	for _, c := range rules[0].conditions {
		for _, way := range c.not {
			if next, ok := w.suppose(f, way); ok {
				can := w.miss(next, rules[1:])
				if w.put(next); can {
					return true
				}
			}
		}
	}
	return false
}

// suppose returns facts, to be put back, with outcomes added. It is not ok if they cannot be. When the budget is spent all can be.
func (w *walker) suppose(f *facts, way []outcome) (*facts, bool) {
	next := w.copy(f)
	for _, o := range way {
		if w.budget--; w.budget < 0 {
			return next, true
		}
		word := &next[o.test.word]
		decided, is := word.decide(o.test)
		if decided && is == o.want {
			continue
		}
		changed, ok := word.assume(o.test, o.want)
		if decided || !ok {
			w.put(next)
			return nil, false
		}
		*word = changed
	}
	return next, true
}
