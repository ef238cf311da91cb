package seccomp

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzGrants compares a filter of the fuzzer's with a profile, and both with what another implementation of
// BPF makes of one call: what gets through the filter and not through the profile has to be found,
// whatever the filter looks like.
func FuzzGrants(f *testing.F) {
	profiles := make([]*Profile, len(recorded))
	for i, name := range recorded {
		profiles[i] = newProfile(f, readProfile(f, name))
		for j := range recorded {
			f.Add(raw(readFilter(f, name)...), byte(j), uint32(i*10), uint64(1), uint64(1)<<32, []byte("argument"))
		}
	}
	f.Add(raw(ret(retAllow)), byte(2), uint32(165), uint64(0), uint64(0), []byte{})
	f.Add(raw(load(0), equal(165, 0, 1), ret(retAllow), ret(retErrno|1)), byte(2), uint32(165), uint64(0), uint64(0),
		[]byte{})
	f.Add(raw(load(4), and(0xff), equal(3, 0, 1), ret(retAllow), ret(retKillThread)), byte(1), uint32(56), uint64(3),
		uint64(0), []byte{1})
	f.Fuzz(func(t *testing.T, code []byte, which byte, number uint32, one, two uint64, more []byte) {
		filter, err := Parse(code)
		if err != nil || slices.ContainsFunc(filter.code,
			func(in instruction) bool { return in.op == unix.BPF_ALU|unix.BPF_NEG }) {
			return // the other implementation cannot negate
		}
		profile := profiles[int(which)%len(profiles)]
		comparison := NewComparison(t.Context(), profile)
		found, err := grantsOf(comparison, filter)
		if err != nil || len(found) > 0 {
			return // refused, whatever it does
		}
		args := []uint64{one, two, 0, 0, 0, 0}
		for i := range args[2:] {
			if len(more) >= 8*(i+1) {
				args[2+i] = binary.LittleEndian.Uint64(more[8*i:])
			}
		}
		for i := range profile.abis {
			a := &profile.abis[i]
			for j := range a.calls {
				c := &a.calls[j]
				if c.number%64 != number%64 { // a few at a time
					continue
				}
				d := newCall(a.abi, c.number, args...)
				facts, w := d.exact(), newWalker(t.Context(), maxSteps)
				is := run(t, filter.code, d)
				if want := c.stronger(w, &facts, strengthOf(is)); want != nil {
					t.Errorf("%s (%s) %#x: the filter returns %#x, the profile says %v, and nothing was found", c.name, a.name, args,
						is, want)
				}
			}
		}
	})
}
