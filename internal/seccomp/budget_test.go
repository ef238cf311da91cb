package seccomp

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	jset = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	jge  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
)

// hostile are filters that are short and have many ways through them, on which much is to be done.
func hostile(named map[uint32]bool) map[string][]instruction {
	// Numbers below 65536 that the tables have, by exclusions that no bit tells: at the end of each of 2^24 ways all are
	// tried.
	numbers := []instruction{load(wordNumber), {jge, 0, 1, 1 << 16}, ret(retErrno)}
	for bit := 9; bit < 16; bit++ {
		mask := uint32(1<<bit | 1<<(bit+1))
		numbers = append(numbers, load(wordNumber), and(mask))
		for _, k := range []uint32{1 << bit, 1 << (bit + 1), mask} {
			numbers = append(numbers, equal(k, 0, 1), ret(retErrno))
		}
	}
	numbers = append(numbers, load(wordNumber))
	for n := range uint32(512) {
		if !named[n] {
			numbers = append(numbers, equal(n, 0, 1), ret(retErrno))
		}
	}
	for i := range 24 {
		numbers = append(numbers, load(wordArgs), instruction{jset, 0, 0, 1 << i})
	}
	numbers = append(numbers, ret(retAllow))
	// As many exclusions of a number as there can be, and a look at all of them in each further instruction.
	exclusions := []instruction{load(wordNumber)}
	for i := range 2000 {
		exclusions = append(exclusions, equal(uint32(0x20000000+2*i), 0, 0))
	}
	for i := range 2000 {
		exclusions = append(exclusions, instruction{jset, 0, 0, uint32(1)<<(i%30) | 1})
	}
	exclusions = append(exclusions, ret(retAllow))
	// The like for an argument, which is unknown in every call.
	arguments := []instruction{load(wordArgs)}
	for i := range 4000 {
		arguments = append(arguments, equal(uint32(i), 0, 0))
	}
	arguments = append(arguments, ret(retErrno))
	// Two ways at each of twelve arguments, again and again.
	maze := []instruction{}
	for i := range 64 {
		maze = append(maze, load(wordArgs+uint32(i%12)), instruction{jset, 0, 1, 1 << (i / 12)}, load(wordArgs))
	}
	maze = append(maze, ret(retErrno))
	return map[string][]instruction{"numbers": numbers, "exclusions": exclusions, "arguments": arguments, "maze": maze}
}

// Whatever a filter is like, no more is done than the budget says, and what is not looked at to its end is not
// accepted.
func TestBudget(t *testing.T) {
	profile := newProfile(t, readProfile(t, "default"))
	for name, code := range hostile(profile.abis[0].named) {
		t.Run(name, func(t *testing.T) {
			c := NewComparison(t.Context(), profile)
			for i := range 2 * maxStepsAll / maxSteps {
				before := c.steps
				p := program(t, code...)
				if g, err := grantsOf(c, p); err == nil && len(g) == 0 {
					t.Fatal("accepted")
				}
				if spent := before - c.steps; spent > maxSteps || c.steps < 0 {
					t.Fatalf("filter %d took %d, %d are left", i, spent, c.steps)
				}
				steps := c.steps
				if _, err := grantsOf(c, p, p, p); err == nil || c.steps != steps {
					// The second look at a filter costs nothing; of filters that let something through the chain does.
					if steps-c.steps > 4*len(c.keys) {
						t.Fatalf("the same filter again took %d", steps-c.steps)
					}
				}
			}
		})
	}
}

// What runtimes write is far from the bounds, also when several are stacked.
func TestBudgetOfHonestFilters(t *testing.T) {
	for _, name := range recorded {
		c := NewComparison(t.Context(), newProfile(t, readProfile(t, name)))
		own := program(t, readFilter(t, name)...)
		for range 3 {
			if g, err := grantsOf(c, program(t, readFilter(t, name)...), program(t, ret(retAllow)), own); err != nil ||
				len(g) > 0 {
				t.Errorf("%s: %v, %v", name, g, err)
			}
		}
		if spent := maxStepsAll - c.steps; spent > maxSteps/2 {
			t.Errorf("%s: took %d of %d", name, spent, maxSteps)
		}
	}
}

// The longest chain that the kernel takes costs as much as its filters, however many threads have it.
func TestLongChain(t *testing.T) {
	profile := newProfile(t, readProfile(t, "default"))
	for name, tc := range map[string]struct {
		filter []instruction
		honest bool
	}{"honest": {readFilter(t, "default"), true}, "hostile": {[]instruction{ret(retAllow)}, false}} {
		c := NewComparison(t.Context(), profile)
		p := program(t, tc.filter...)
		var chain *Chain
		for range 6553 {
			chain = c.Extend(chain, p)
		}
		g, err := c.Grants(chain)
		if tc.honest != (err == nil && len(g) == 0) {
			t.Errorf("%s: %d grants, %v", name, len(g), err)
		}
		if c.steps < 0 || tc.honest && maxStepsAll-c.steps > maxSteps {
			t.Errorf("%s: %d steps are left", name, c.steps)
		}
	}
}

// Nothing is done after the end of the context, and nothing accepted.
func TestBudgetEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	profile := newProfile(t, readProfile(t, "default"))
	c := NewComparison(ctx, profile)
	if g, err := grantsOf(c, program(t, hostile(profile.abis[0].named)["maze"]...)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", g, err)
	}
	if spent := maxStepsAll - c.steps; spent > maxSteps {
		t.Errorf("took %d", spent)
	}
}

// BenchmarkHostile is the longest that one filter can take.
func BenchmarkHostile(b *testing.B) {
	profile := newProfile(b, readProfile(b, "default"))
	for name, code := range hostile(profile.abis[0].named) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, _ = grantsOf(NewComparison(b.Context(), profile), program(b, code...))
			}
		})
	}
}
