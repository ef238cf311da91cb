package seccomp

import (
	"cmp"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Profile is what runc and libseccomp make of a profile of the OCI specification.
type Profile struct {
	abis []profiled
	// SpecAllow says whether its filter has this flag.
	SpecAllow bool
}

// profiled is a profile on one ABI.
type profiled struct {
	abi
	calls []call // those with a number, by number
	other action // what is done with all others
	named map[uint32]bool
}

// call is what a profile says of a system call.
type call struct {
	name   string
	number uint32
	rules  []rule
	other  action   // if no rule matches
	most   strength // the strongest of all
}

// NewProfile reads a profile for a machine, as GOARCH names it. It returns none for a profile
// that says nothing, which runc takes as none.
func NewProfile(s *specs.LinuxSeccomp, machine string) (*Profile, error) {
	if s == nil || s.DefaultAction == "" && len(s.Syscalls) == 0 {
		return nil, nil
	}
	abis, err := abisOf(machine)
	if err != nil {
		return nil, err
	}
	other, err := actionOf(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	for _, a := range s.Architectures {
		if !known[a] {
			return nil, fmt.Errorf("architecture %q is unknown", a)
		}
	}
	// Without a list of flags runc sets this one.
	p := &Profile{SpecAllow: s.Flags == nil || slices.Contains(s.Flags, specs.LinuxSeccompFlagSpecAllow)}
	for i, a := range abis {
		rules, err := rulesByNumber(s.Syscalls, other, a)
		if err != nil {
			return nil, err
		}
		// The machine's own architecture is always among them. libseccomp kills for a call of one that is not.
		if i == 0 || slices.Contains(s.Architectures, a.arch) {
			p.abis = append(p.abis, newProfiled(a, other, rules))
		} else {
			p.abis = append(p.abis, newProfiled(a, action{"kill", denied, retKillThread}, nil))
		}
	}
	return p, nil
}

func newProfiled(a abi, other action, rules map[uint32][]rule) profiled {
	out := profiled{abi: a, other: other, named: make(map[uint32]bool, len(a.numbers))}
	for name, number := range a.numbers {
		c := call{name: name, number: number, rules: rules[number], other: other, most: other.strength}
		// A rule without conditions takes the place of all that have some; of several
		// such rules the first one counts (libseccomp, src/db.c).
		if i := slices.IndexFunc(c.rules, func(r rule) bool { return len(r.conditions) == 0 }); i >= 0 {
			c.other = c.rules[i].action
			c.rules, c.most = nil, c.other.strength
		}
		for _, r := range c.rules {
			c.most = max(c.most, r.action.strength)
		}
		out.calls = append(out.calls, c)
		out.named[number] = true
	}
	slices.SortFunc(out.calls, func(a, b call) int { return cmp.Compare(a.number, b.number) })
	return out
}

// rulesByNumber collects the rules of a profile for an ABI. A name that the ABI does not have has no rule there.
func rulesByNumber(list []specs.LinuxSyscall, other action, a abi) (map[uint32][]rule, error) {
	out := map[uint32][]rule{}
	for _, s := range list {
		do, err := actionOf(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, err
		}
		if do.ret == other.ret {
			continue // runc leaves out what is done anyway
		}
		rules, err := rulesOf(s.Args, do, a.narrow)
		if err != nil {
			return nil, fmt.Errorf("system calls %q: %w", slices.Sorted(slices.Values(s.Names)), err)
		}
		for _, name := range s.Names {
			if number, ok := a.numbers[name]; ok {
				out[number] = append(out[number], rules...)
			}
			if m, ok := multiplexed[name]; ok && a.arch == specs.ArchX86 {
				for _, r := range rules {
					by := a.numbers[m.by]
					out[by] = append(out[by], r.function(m.function))
				}
			}
		}
	}
	return out, nil
}
