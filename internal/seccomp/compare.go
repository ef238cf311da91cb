package seccomp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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

	// keeps is what it costs to keep what was found of one call: memory, not time.
	keeps = 8
)

// Comparison compares the filters of one checkpoint with a profile, each only once.
type Comparison struct {
	ctx     context.Context
	profile *Profile
	steps   int
	keys    []key // all calls of the profile, by ABI and number
	known   map[*Program]*result
	none    *Chain
}

// key is a call: an ABI of the profile and a call of it, or -1 for all unknown numbers.
type key struct{ abi, call int }

// result is what one filter lets through: calls, by their index among the keys, in that order.
type result struct {
	found []found
	err   error
}

// found is what a filter does with a call.
type found struct {
	key    int
	number uint32 // one that stands for unknown numbers
	ret    uint32
	want   *action
}

// Chain is what the filters of a thread let through together: a call is held back if one of them does so.
type Chain struct {
	left []found // of the oldest filter that could be compared, without what others hold back
	any  bool    // whether there is such a filter
	err  error   // why another could not
}

// NewComparison returns a comparison of filters with p. It ends with the context: then filters cannot be compared.
func NewComparison(ctx context.Context, p *Profile) *Comparison {
	c := &Comparison{
		ctx: ctx, profile: p, steps: maxStepsAll, known: map[*Program]*result{},
		none: &Chain{err: errors.New("there is no filter")},
	}
	for i := range p.abis {
		for j := range p.abis[i].calls {
			c.keys = append(c.keys, key{i, j})
		}
		c.keys = append(c.keys, key{i, -1})
	}
	return c
}

// Extend returns a chain with one more filter, which is newer than those of the chain; nil is a chain without any. What
// the chain holds back already is not looked for again. The cost is at most that of one filter, however long the chain
// is.
func (c *Comparison) Extend(chain *Chain, p *Program) *Chain {
	if chain == nil {
		chain = c.none
	}
	if chain.any && len(chain.left) == 0 {
		return chain
	}
	r, ok := c.known[p]
	if !ok {
		r = &result{}
		r.found, r.err = c.compare(p)
		c.known[p] = r
	}
	switch {
	case r.err != nil && chain.any: // it may hold nothing back
		return chain
	case r.err != nil:
		return &Chain{err: r.err}
	case !chain.any:
		return &Chain{left: r.found, any: true}
	}
	if c.steps -= len(chain.left) + len(r.found); c.steps < 0 {
		c.steps = 0
		return &Chain{err: errTooComplex}
	}
	lets := make([]bool, len(c.keys))
	for _, f := range r.found {
		lets[f.key] = true
	}
	held := func(f found) bool { return !lets[f.key] }
	if !slices.ContainsFunc(chain.left, held) {
		return chain
	}
	return &Chain{left: slices.DeleteFunc(slices.Clone(chain.left), held), any: true}
}

// Grants returns what a thread with these filters could call and the profile does not allow, the machine's
// own ABI first.
func (c *Comparison) Grants(chain *Chain) ([]Grant, error) {
	if chain == nil {
		chain = c.none
	}
	if !chain.any {
		return nil, chain.err
	}
	out := make([]Grant, 0, len(chain.left))
	for _, f := range chain.left {
		out = append(out, c.grant(f))
	}
	return out, nil
}

// grant describes what was found.
func (c *Comparison) grant(f found) Grant {
	k := c.keys[f.key]
	a := &c.profile.abis[k.abi]
	g := Grant{Found: retName(f.ret), Allowed: f.want.name}
	if k.call < 0 {
		g.Syscall = fmt.Sprintf("unknown system call %d", f.number)
	} else {
		call := &a.calls[k.call]
		g.Syscall, g.Some = call.name, len(call.rules) > 0
	}
	return g.of(a.name, k.abi)
}

// compare compares one filter.
func (c *Comparison) compare(p *Program) ([]found, error) {
	w := newWalker(c.ctx, min(maxSteps, c.steps))
	defer func(before int) { c.steps -= before - max(w.budget, 0) }(w.budget)
	var out []found
	for i, k := range c.keys {
		a := &c.profile.abis[k.abi]
		f := found{key: i}
		var ok bool
		if k.call < 0 {
			ok = w.others(p, a, &f)
		} else {
			ok = w.known(p, a, &a.calls[k.call], &f)
		}
		if !ok {
			out = append(out, f)
			w.spend(keeps)
		}
		if w.budget < 0 {
			return nil, cmp.Or(c.ctx.Err(), errTooComplex)
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

// known compares what happens to a call with a number that the profile may have rules for. What is let through is in
// out.
func (w *walker) known(p *Program, a *profiled, c *call, out *found) bool {
	if c.most == allowed {
		return true
	}
	ok := true
	f := a.facts(exactly(c.number))
	ended := w.walk(p, &f, func(f *facts, ret uint32) bool {
		s := strengthOf(ret)
		if s >= c.most {
			return true
		}
		if want := c.stronger(w, f, s); want != nil {
			out.ret, out.want, ok = ret, want, false
		}
		return ok
	})
	return ok && ended
}

// others compares what happens to calls with numbers that nobody knows.
func (w *walker) others(p *Program, a *profiled, out *found) bool {
	if a.other.strength == allowed {
		return true
	}
	ok := true
	f := a.facts(between(a.first, a.last))
	ended := w.walk(p, &f, func(f *facts, ret uint32) bool {
		if strengthOf(ret) >= a.other.strength {
			return true
		}
		if number, is := w.unknown(a, &f[wordNumber]); is {
			out.number, out.ret, out.want, ok = number, ret, &a.other, false
		}
		return ok
	})
	return ok && ended
}

// unknown returns a number that a call may have and the tables do not. It finds one where there is one: it
// tries more numbers than the tables have, and then takes it that there is one.
func (w *walker) unknown(a *profiled, f *fact) (uint32, bool) {
	each := 1 + f.exclusions()/looks
	for i, n := 0, f.low; n <= f.high; i, n = i+1, n+1 {
		if i > 8*len(a.named)+1<<16 || f.can(n) && !a.named[n] {
			return n, true
		}
		if !w.spend(each) {
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

// stronger returns what the profile may want for a call of these facts, if that is stronger than s. Of
// several rules that match, the strongest is taken.
func (c *call) stronger(w *walker, f *facts, s strength) *action {
	for i := range c.rules {
		if r := &c.rules[i]; r.action.strength > s && w.match(f, r.conditions) {
			return &r.action
		}
	}
	if c.other.strength > s && w.miss(f, c.rules) {
		return &c.other
	}
	return nil
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

// suppose returns facts, to be put back, with outcomes added. It is not ok if they cannot be. When the budget is spent
// all can be.
func (w *walker) suppose(f *facts, way []outcome) (*facts, bool) {
	next := w.copy(f)
	for _, o := range way {
		if !w.spend(1) {
			return next, true
		}
		word := &next[o.test.word]
		decided, is := w.decide(word, o.test)
		if decided && is == o.want {
			continue
		}
		changed, ok := w.assume(word, o.test, o.want)
		if decided || !ok {
			w.put(next)
			return nil, false
		}
		*word = changed
	}
	return next, true
}
