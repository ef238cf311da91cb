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
	// LazyAuto does so with a checkpoint whose memory is large enough to gain by it, and most of it one process's.
	LazyAuto Lazy = "auto"
)

// lazyThreshold is the memory from which on [LazyAuto] restores lazily, in bytes. See docs/performance.md for
// the measurement.
const lazyThreshold = 64 << 20

// Lazily reports whether a checkpoint is to be restored lazily. The sizes of its memories are in bytes, one for each
// process and each piece of shared memory.
//
// CRIU's page server (criu/uffd.c: handle_requests, find_iov) fills one process after the other, and searches a list
// at each fault that faults make longer. Several large processes that read at random wait longer than an eager
// restore would have taken.
func (l Lazy) Lazily(memories ...int64) bool {
	var all, largest int64
	for _, m := range memories {
		all += m
		largest = max(largest, m)
	}
	return l == LazyOn && all > 0 || l == LazyAuto && all >= lazyThreshold && all-largest < lazyThreshold
}

func checkLazy(what string, l Lazy) error {
	if l == "" || slices.Contains([]Lazy{LazyOff, LazyOn, LazyAuto}, l) {
		return nil
	}
	return fmt.Errorf("%s: %q is none of %q, %q, %q", what, l, LazyOff, LazyOn, LazyAuto)
}
