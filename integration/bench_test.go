package integration

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// benchCount is how often a restore or a checkpoint is measured; an ordinary container, where less is at
// stake, four times as often. BENCH_COUNT in the environment changes it.
const benchCount = 5

// rounds is how often each case is measured.
func rounds(b *testing.B) int {
	b.Helper()
	text := os.Getenv("BENCH_COUNT")
	if text == "" {
		return benchCount
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		b.Fatalf("BENCH_COUNT: %q is no number above 0", text)
	}
	return n
}

// benchMiB are the sizes of memory. 64 MiB is there to be compared with.
var benchMiB = []int{16, 64, 256, 1024, 4096}

// sizes are the sizes of memory in MiB. BENCH_SIZES in the environment changes them.
func sizes(b *testing.B) []int {
	b.Helper()
	text := strings.Fields(os.Getenv("BENCH_SIZES"))
	if len(text) == 0 {
		return benchMiB
	}
	var out []int
	for _, s := range text {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			b.Fatalf("BENCH_SIZES: %q is no number above 0", s)
		}
		out = append(out, n)
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func median(all []time.Duration) time.Duration { return quantile(all, 2) }

func quantile(all []time.Duration, quarter int) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)-1)*quarter/4]
}

// spread is between which the middle half of the measurements lies.
func spread(all []time.Duration) string {
	return fmt.Sprintf("%.1f-%.1f", milliseconds(quantile(all, 1)), milliseconds(quantile(all, 3)))
}
