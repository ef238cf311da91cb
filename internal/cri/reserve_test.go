package cri

import (
	"testing"

	"github.com/cri-restore/cri-restore/internal/verify"
)

func TestMayReserve(t *testing.T) {
	const gib = 1 << 30
	const info = "MemTotal:        4194304 kB\nSwapTotal:       1048576 kB\nCommitLimit:     3145728 kB\nCommitted_AS: " +
		"   1048576 kB\nHugePages_Total:       0\n"
	for name, c := range map[string]struct {
		mode         string
		largest, all uint64
		want         bool
	}{
		"as much as there is":              {"0", 5 * gib, 500 * gib, true},
		"more than there is":               {"0", 5*gib + 1, 5*gib + 1, false},
		"much more, and nobody counts":     {"1", 8 << 40, 8 << 40, true},
		"as much as is left":               {"2", gib, 2 * gib, true},
		"more than is left":                {"2", gib, 2*gib + 1, false},
		"more than is left, in one":        {"2", 3 * gib, 3 * gib, false},
		"nothing":                          {"0", 0, 0, true},
		"nothing, where everything counts": {"2", 0, 0, true},
	} {
		if got, err := allows(c.mode, info, verify.Reserved{Largest: c.largest, All: c.all}); got != c.want || err != nil {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
	if _, err := allows("0", "", verify.Reserved{}); err == nil {
		t.Error("nothing is known of the memory")
	}
	if got, err := mayReserve(verify.Reserved{}); !got || err != nil {
		t.Errorf("nothing, on this node: %t, %v", got, err)
	}
}
