package verify

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/pkg/cap"
)

// capabilities is a set of them: bit n is the one with the number n.
type capabilities uint64

// The numbers of those that matter here by themselves (linux/capability.h).
const (
	// Those that decide who may open a file.
	capChown         capabilities = 1 << 0
	capDACOverride   capabilities = 1 << 1
	capDACReadSearch capabilities = 1 << 2
	capFOwner        capabilities = 1 << 3

	capSetGID      capabilities = 1 << 6
	capSetUID      capabilities = 1 << 7
	capSetPCap     capabilities = 1 << 8
	capSysNice     capabilities = 1 << 23
	capSysResource capabilities = 1 << 24
	capWakeAlarm   capabilities = 1 << 35
)

// named returns the set with these names. One that is not known grants nothing: runc ignores it.
func named(names []string) capabilities {
	var c capabilities
	for i, name := range cap.Known() {
		if slices.Contains(names, name) {
			c |= 1 << i
		}
	}
	return c
}

// words reads a set as CRIU writes it. Its restore would take the upper half of a shorter one for empty
// and cut the lower one to nine bits (cr-restore.c, copy_caps).
func words[N uint32 | uint64](w []N) (capabilities, error) {
	if len(w) != 2 || uint64(w[0])>>32 != 0 || uint64(w[1])>>32 != 0 {
		return 0, errors.New("a set of capabilities does not have 64 bits")
	}
	return capabilities(uint64(w[0]) | uint64(w[1])<<32), nil
}

// has says whether all of these are in the set.
func (c capabilities) has(all capabilities) bool { return c&all == all }

func (c capabilities) String() string {
	if c == 0 {
		return "none"
	}
	names, numbers := cap.FromBitmap(uint64(c))
	for _, n := range numbers {
		names = append(names, fmt.Sprintf("number %d", n))
	}
	return strings.Join(names, ", ")
}
