package dump

import (
	"iter"
	"time"
)

// Times are how long the steps of a checkpoint took.
type Times struct {
	// Frozen is how long the container stood still, from the request to freeze it until it ran on.
	Frozen time.Duration
	// CRIU is the dump by CRIU, Diff the reading of the root file system's changes: both while frozen.
	CRIU, Diff time.Duration
	// Write is everything that was done with the result afterwards.
	Write time.Duration
	// InPlace is how many bytes CRIU had written to where they stayed.
	InPlace int64
}

// All returns the times by name.
func (t *Times) All() iter.Seq2[string, time.Duration] {
	return func(yield func(string, time.Duration) bool) {
		_ = yield("frozen", t.Frozen) && yield("criu", t.CRIU) && yield("diff", t.Diff) && yield("write", t.Write)
	}
}
