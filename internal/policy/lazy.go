package policy

import (
	"fmt"
	"slices"
)

// Lazy says whether processes run before all of their memory is there.
type Lazy string

const (
	// LazyOff restores all memory first. The zero value does so too.
	LazyOff Lazy = "off"
	// LazyOn lets the memory arrive while the processes run, where the node can do that.
	LazyOn Lazy = "on"
	// LazyAuto does so with a checkpoint whose memory is large enough to gain by it.
	LazyAuto Lazy = "auto"
)

// lazyThreshold is the memory from which on [LazyAuto] restores lazily, in bytes. See docs/performance.md for
// the measurement.
const lazyThreshold = 64 << 20

// Lazily reports whether a checkpoint with so many bytes of memory is to be restored lazily.
func (l Lazy) Lazily(pages int64) bool {
	return l == LazyOn && pages > 0 || l == LazyAuto && pages >= lazyThreshold
}

func checkLazy(what string, l Lazy) error {
	if l == "" || slices.Contains([]Lazy{LazyOff, LazyOn, LazyAuto}, l) {
		return nil
	}
	return fmt.Errorf("%s: %q is none of %q, %q, %q", what, l, LazyOff, LazyOn, LazyAuto)
}
