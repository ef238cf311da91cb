package seccomp

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func grants(t testing.TB, s *specs.LinuxSeccomp, chain ...[]instruction) []Grant {
	t.Helper()
	var programs []*Program
	for _, code := range chain {
		programs = append(programs, program(t, code...))
	}
	g, err := grantsOf(NewComparison(t.Context(), newProfile(t, s)), programs...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// grantsOf compares a chain of filters, the newest first.
func grantsOf(c *Comparison, newestFirst ...*Program) ([]Grant, error) {
	var chain *Chain
	for _, p := range slices.Backward(newestFirst) {
		chain = c.Extend(chain, p)
	}
	return c.Grants(chain)
}

func named(g []Grant, name string) (Grant, bool) {
	i := slices.IndexFunc(g, func(g Grant) bool { return g.Syscall == name })
	if i < 0 {
		return Grant{}, false
	}
	return g[i], true
}

// TestRecorded compares filters that real runtimes made with the profiles they made them of.
func TestRecorded(t *testing.T) {
	for _, name := range recorded {
		if g := grants(t, readProfile(t, name), readFilter(t, name)); len(g) > 0 {
			t.Errorf("%s: its own filter lets through %v", name, g)
		}
	}
}

// TestOtherProfile compares the filters with other profiles.
func TestOtherProfile(t *testing.T) {
	for _, tc := range []struct {
		profile, filter string
		lets            []Grant // some of those; none: accepted
	}{
		// The engines' default profiles, one in the place of the other.
		{"podman", "default", []Grant{{"vmsplice", "allowed", "errno", false}, {"socket", "allowed", "errno", true}}},
		{"default", "podman", []Grant{{"mount", "allowed", "errno", false}, {"unshare", "allowed", "errno", false},
			{"clone", "allowed", "errno", true}, {"socket", "allowed", "errno", true},
			{"mount (x86)", "allowed", "errno", false}}},
		// With other capabilities.
		{"default", "none", nil},
		{"none", "default", []Grant{{"chroot", "allowed", "errno", false}, {"chroot (x32)", "allowed", "errno", false},
			{"chroot (x86)", "allowed", "errno", false}}},
		{"none", "admin", []Grant{{"mount", "allowed", "errno", false}, {"bpf", "allowed", "errno", false},
			{"init_module", "allowed", "errno", false}}},
		// Other actions.
		{"none", "args", []Grant{{"vhangup", "trace", "errno", false}, {"swapoff", "log", "errno", false},
			{"keyctl", "allowed", "errno", false}}},
		{"deny", "log", []Grant{{"bpf", "trace", "errno", false}, {"ptrace", "log", "kill", false}}},
		{"log", "deny", []Grant{{"read", "allowed", "log", false}, {"read (x86)", "allowed", "kill", false}}},
		{"deny", "none", []Grant{{"shmget", "allowed", "errno", false}, {"read (x32)", "allowed", "kill", false}}},
	} {
		t.Run(tc.filter+" under "+tc.profile, func(t *testing.T) {
			got := grants(t, readProfile(t, tc.profile), readFilter(t, tc.filter))
			for _, want := range tc.lets {
				if !slices.Contains(got, want) {
					t.Errorf("%v is missing among %v", want, got)
				}
			}
			if tc.lets == nil && len(got) > 0 {
				t.Errorf("refused for %v", got)
			}
		})
	}
}

// TestOneMore lets through one system call more than the profile, for each that it denies.
func TestOneMore(t *testing.T) {
	for _, name := range []string{"default", "deny"} {
		p, code := newProfile(t, readProfile(t, name)), readFilter(t, name)
		tried := 0
		for i, a := range p.abis {
			for _, c := range a.calls {
				if c.other.strength != denied {
					continue
				}
				edited := program(t, first(code, retAllow, map[uint32]uint32{wordNumber: c.number, wordArch: a.audit})...)
				g, err := grantsOf(NewComparison(t.Context(), p), edited)
				if want := (Grant{c.name, "allowed", c.other.name, len(c.rules) > 0}).of(a.name, i); err != nil ||
					!slices.Equal(g, []Grant{want}) {
					t.Errorf("%s: found %v, error %v, want %v", name, g, err, want)
				}
				tried++
			}
		}
		if tried < 10 {
			t.Errorf("%s: only %d tried", name, tried)
		}
	}
}

// TestOneLess denies one system call more, which is an honest filter.
func TestOneLess(t *testing.T) {
	s, code := readProfile(t, "default"), readFilter(t, "default")
	for _, v := range []uint32{retErrno | 1, retKillProcess, retKillThread, retTrap} {
		for number := uint32(0); number < 480; number += 7 {
			if g := grants(t, s, first(code, v, map[uint32]uint32{wordNumber: number})); len(g) > 0 {
				t.Fatalf("number %d with %#x: %v", number, v, g)
			}
		}
	}
}

// TestUnknownNumbers lets through calls that no table has.
func TestUnknownNumbers(t *testing.T) {
	s, code := readProfile(t, "default"), readFilter(t, "default")
	amd64, x32, i386 := machines["amd64"]()[0], machines["amd64"]()[1], machines["amd64"]()[2]
	for what, tc := range map[string]struct {
		is  map[uint32]uint32
		say string
	}{
		"a number that is not used": {map[uint32]uint32{wordNumber: 400, wordArch: amd64.audit}, "unknown system call 400"},
		"a later one":               {map[uint32]uint32{wordNumber: 999, wordArch: amd64.audit}, "unknown system call 999"},
		"the highest": {map[uint32]uint32{wordNumber: x32Bit - 1, wordArch: amd64.audit},
			fmt.Sprintf("unknown system call %d", x32Bit-1)},
		"of x32": {map[uint32]uint32{wordNumber: x32Bit + 999, wordArch: x32.audit},
			fmt.Sprintf("unknown system call %d (x32)", x32Bit+999)},
		"of x86": {map[uint32]uint32{wordNumber: 999, wordArch: i386.audit},
			"unknown system call 999 (x86)"},
	} {
		t.Run(what, func(t *testing.T) {
			g := grants(t, s, first(code, retAllow, tc.is))
			if _, ok := named(g, tc.say); len(g) != 1 || !ok {
				t.Errorf("found %v, want %s", g, tc.say)
			}
		})
	}
	t.Run("no system call", func(t *testing.T) {
		if g := grants(t, s, first(code, retAllow, map[uint32]uint32{wordNumber: noNumber})); len(g) > 0 {
			t.Errorf("found %v", g)
		}
	})
	t.Run("another machine's", func(t *testing.T) {
		if g := grants(t, s, first(code, retAllow, map[uint32]uint32{wordArch: 0xc00000b7})); len(g) > 0 {
			t.Errorf("found %v", g)
		}
	})
	// By tests that leave no range.
	for what, rule := range map[string][]instruction{
		"odd":       {load(wordNumber), {0x45, 0, 1, 1}, ret(retAllow)},
		"masked":    {load(wordNumber), and(0xff00), equal(0x300, 0, 1), ret(retAllow)},
		"greater":   {load(wordNumber), {0x25, 0, 1, 100000}, ret(retAllow)},
		"computed":  {load(wordNumber), {0x04, 0, 0, 7}, equal(5000, 0, 1), ret(retAllow)},
		"by itself": {load(wordNumber), {0x07, 0, 0, 0}, {0x2c, 0, 0, 0}, equal(1<<20, 0, 1), ret(retAllow)}, // squared
	} {
		t.Run(what, func(t *testing.T) {
			if g := grants(t, s, append(rule, code...)); !slices.ContainsFunc(g,
				func(g Grant) bool { return strings.HasPrefix(g.Syscall, "unknown") }) {
				t.Errorf("found %v", g)
			}
		})
	}
}

// TestChain compares filters that are there together.
func TestChain(t *testing.T) {
	s, honest := readProfile(t, "default"), readFilter(t, "default")
	mount := first(honest, retAllow, map[uint32]uint32{wordNumber: 165})
	bpf := first(honest, retAllow, map[uint32]uint32{wordNumber: 321})
	all := []instruction{ret(retAllow)}
	sandbox := []instruction{load(wordNumber), equal(0, 1, 0), ret(retKillProcess), ret(retAllow)} // only read
	for what, tc := range map[string]struct {
		chain [][]instruction
		lets  []string
	}{
		"the profile's":                  {[][]instruction{honest}, nil},
		"and one of the program's":       {[][]instruction{honest, sandbox}, nil},
		"and one that allows everything": {[][]instruction{honest, all}, nil},
		"the other way round":            {[][]instruction{all, honest}, nil},
		"each holds what the other lets": {[][]instruction{mount, bpf}, nil},
		"both let it through":            {[][]instruction{mount, mount}, []string{"mount"}},
		"one that allows everything": {[][]instruction{all},
			[]string{"mount", "bpf", "unshare", "mount (x86)", "unknown system call 335 (x86)"}},
		"a weaker one and nothing":  {[][]instruction{mount, all}, []string{"mount"}},
		"stricter than the profile": {[][]instruction{{ret(retErrno | 1)}}, nil},
		"a listener that is gone": {[][]instruction{first(honest, retUserNotif, map[uint32]uint32{wordNumber: 165})},
			[]string{"mount"}},
		"a tracer": {[][]instruction{first(honest, retTrace, map[uint32]uint32{wordNumber: 165})},
			[]string{"mount"}},
		"an action without meaning": {[][]instruction{first(honest, 0x7ffe0000, map[uint32]uint32{wordNumber: 165})},
			[]string{"mount"}},
	} {
		t.Run(what, func(t *testing.T) {
			g := grants(t, s, tc.chain...)
			for _, name := range tc.lets {
				if _, ok := named(g, name); !ok && !strings.HasPrefix(name, "unknown") {
					t.Errorf("%s is missing among %v", name, g)
				}
			}
			if tc.lets == nil && len(g) > 0 {
				t.Errorf("refused for %v", g)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		if g, err := grantsOf(NewComparison(t.Context(), newProfile(t, s))); err == nil {
			t.Errorf("accepted, %v", g)
		}
	})
}

// TestTooComplex gives filters with more ways than anybody can go.
func TestTooComplex(t *testing.T) {
	s := readProfile(t, "default")
	var maze []instruction
	for i := range 64 {
		maze = append(maze, load(wordArgs+uint32(i%12)), instruction{0x45, 0, 1, 1 << (i / 12)}, instruction{op: 0x87})
	}
	maze = append(maze, ret(retErrno))
	c := NewComparison(t.Context(), newProfile(t, s))
	if g, err := grantsOf(c, program(t, maze...)); err == nil {
		t.Errorf("accepted, %v", g)
	}
	if maxStepsAll-c.steps > maxSteps {
		t.Errorf("%d steps for one filter", maxStepsAll-c.steps)
	}
	// With the profile's own filter it does not matter what others do.
	if g := grants(t, s, readFilter(t, "default"), maze); len(g) > 0 {
		t.Errorf("refused for %v", g)
	}
	// A budget for all.
	for range 2 * maxStepsAll / maxSteps {
		if _, err := grantsOf(c, program(t, maze...)); err == nil {
			t.Error("accepted")
		}
	}
	if c.steps < 0 {
		t.Errorf("%d steps more than there are", -c.steps)
	}
}

// TestArguments lets through single calls that a profile denies, chosen at random by all its words, and finds each.
func TestArguments(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 7))
	for _, name := range recorded {
		p, code := newProfile(t, readProfile(t, name)), readFilter(t, name)
		for i, a := range p.abis {
			for _, c := range a.calls {
				if len(c.rules) == 0 || len(c.rules) > 10 && c.number%16 != 0 && c.name != "socket" {
					continue
				}
				for range 6 {
					args := make([]uint64, maxArgs)
					for j := range args {
						args[j] = uint64(interesting(r, code))
						if !a.short && r.IntN(2) == 0 {
							args[j] |= uint64(interesting(r, code)) << 32
						}
					}
					d := newCall(a.abi, c.number, args...)
					f := d.exact()
					denies := c.stronger(newWalker(t.Context(), maxSteps), &f, allowed) != nil
					is := map[uint32]uint32{}
					for w, v := range d {
						if w != 2 && w != 3 {
							is[uint32(w)] = v
						}
					}
					g, err := grantsOf(NewComparison(t.Context(), p), program(t, first(code, retAllow, is)...))
					if err != nil {
						t.Fatal(err)
					}
					want := Grant{Syscall: c.name}.of(a.name, i).Syscall
					if _, found := named(g, want); found != denies || len(g) > 1 {
						t.Fatalf("%s: %s%#x: denied %t, found %v", name, want, args, denies, g)
					}
				}
			}
		}
	}
}

// TestAgainstMachine compares calls one at a time: what another implementation of BPF makes of a real
// filter is never weaker than the profile, and the way that is followed here ends the same.
func TestAgainstMachine(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, name := range recorded {
		p, code := newProfile(t, readProfile(t, name)), readFilter(t, name)
		prog := &Program{code}
		for i := range p.abis {
			a := &p.abis[i]
			for range 300 {
				c := &a.calls[r.IntN(len(a.calls))]
				args := make([]uint64, maxArgs)
				for j := range args {
					args[j] = uint64(interesting(r, code))
				}
				d := newCall(a.abi, c.number, args...)
				f, w := d.exact(), newWalker(t.Context(), maxSteps)
				is, ways := run(t, code, d), 0
				w.walk(prog, &f, func(_ *facts, got uint32) bool {
					if ways++; got != is {
						t.Errorf("%s: %s%#x: returned %#x, want %#x", name, c.name, args, got, is)
					}
					return true
				})
				if want := c.stronger(w, &f, strengthOf(is)); ways != 1 || want != nil {
					t.Errorf("%s: %s (%s) %#x: %d ways, the filter returns %#x, the profile says %v", name, c.name, a.name, args,
						ways, is, want)
				}
			}
		}
	}
}

// BenchmarkGrants compares the filter of 50 processes, in images of their own, with containerd's default profile.
func BenchmarkGrants(b *testing.B) {
	s, code := readProfile(b, "default"), raw(readFilter(b, "default")...)
	b.ReportAllocs()
	for b.Loop() {
		profile, err := NewProfile(s, "amd64")
		if err != nil {
			b.Fatal(err)
		}
		c := NewComparison(b.Context(), profile)
		p, err := Parse(code)
		if err != nil {
			b.Fatal(err)
		}
		for range 50 {
			if g, err := grantsOf(c, p); err != nil || len(g) > 0 {
				b.Fatal(g, err)
			}
		}
	}
}
