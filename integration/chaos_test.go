package integration

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-restore/cri-restore/integration/harness"
)

const (
	// chaosShort is how many rounds there are in an ordinary run of the tests, chaosSeed what they are.
	chaosShort, chaosSeed = 6, 7
	// chaosFailures is after how many failed rounds a run ends.
	chaosFailures = 5
)

// chaosNumber is a number in the environment.
func chaosNumber(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return number
}

// TestChaos kills something at a random moment of a random operation, again and again. After each time containerd is
// started again if need be, and the pod is removed as a kubelet does it; then everything has to be as before, and the
// next restore has to work. "make chaos" runs many rounds; a round that fails says how it is repeated. In the
// environment: CHAOS_SEED, CHAOS_N (rounds that struck something), CHAOS_ROUND (only this one), CHAOS_ONLY (only
// operations and faults with these words).
func TestChaos(t *testing.T) {
	t.Parallel()
	chaos(t, chaosOperations(), func(t *testing.T) *chaosWorld { return newChaosWorld(t) }, chaosShort)
}

// TestChaosDisk is TestChaos with a disk that is full, has no inodes or cannot be written to from some moment on, or a
// snapshotter that can make and remove nothing, until the operation has ended.
func TestChaosDisk(t *testing.T) {
	t.Parallel()
	operations := chaosOperations()
	for _, op := range operations {
		op.faults = []string{"full", "no inodes", "read-only", "snapshotter"}
	}
	chaos(t, operations, func(t *testing.T) *chaosWorld {
		w := newChaosWorld(t, harness.WithOwnDisk())
		w.disk = true
		return w
	}, chaosShort/2)
}

func chaos(t *testing.T, operations []*chaosOperation, world func(*testing.T) *chaosWorld, short uint64) {
	seed, rounds := chaosNumber(t, "CHAOS_SEED", chaosSeed), int(chaosNumber(t, "CHAOS_N", short))
	only, single := strings.Fields(os.Getenv("CHAOS_ONLY")), os.Getenv("CHAOS_ROUND") != ""
	first := int(chaosNumber(t, "CHAOS_ROUND", 1))
	t.Logf("CHAOS_SEED=%d CHAOS_N=%d", seed, rounds)
	w := world(t)
	struck, failed, missed := map[string]int{}, 0, 0
	total := 0
	for round := first; total < rounds && missed < 20*rounds; round++ {
		r := rand.New(rand.NewPCG(seed, uint64(round)))
		op := operations[r.IntN(len(operations))]
		fault := op.faults[r.IntN(len(op.faults))]
		share, source := r.Float64(), r.IntN(2)
		if len(only) > 0 && !containsAll(op.name+", "+fault, only...) {
			missed++
			continue
		}
		at := time.Duration(share * 1.1 * float64(op.takes))
		name := describe(seed, round, op, fault, at)
		var hit bool
		ok := t.Run(fmt.Sprintf("round %d", round), func(t *testing.T) {
			t.Log(name)
			hit = w.round(t, op, fault, at, source)
		})
		if hit {
			struck[op.name+", "+fault]++
			total++
		} else {
			missed++
		}
		if !ok {
			failed++
			t.Errorf("failed: %s", name)
			if failed >= chaosFailures {
				break
			}
			// What is left would fail all others, too.
			w = world(t)
		}
		if single {
			break
		}
	}
	for _, what := range slices.Sorted(maps.Keys(struck)) {
		t.Logf("%3d %s", struck[what], what)
	}
	t.Logf("CHAOS_SEED=%d: %d faults struck, %d rounds had nothing to strike or were not asked for, %d failed", seed,
		total, missed, failed)
	if total == 0 {
		t.Error("nothing was struck")
	}
}

// round lets a fault strike an operation, cleans up and compares. It reports whether the fault struck anything.
func (w *chaosWorld) round(t *testing.T, op *chaosOperation, fault string, at time.Duration, source int) (hit bool) {
	n := w.n.In(t)
	if err := os.MkdirAll(filepath.Join(n.Dir(), "dumps"), 0o700); err != nil {
		t.Fatal(err)
	}
	pod := w.pod(t, op.lazy)
	call := &chaosCall{w: w, pod: pod, c: op.prepare(t, w, pod), done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(n.Context(), time.Minute)
	if fault == "deadline" {
		ctx, cancel = context.WithTimeout(n.Context(), max(at, time.Millisecond))
	}
	defer cancel()
	call.cancel = cancel
	began := time.Now()
	var (
		err  error
		took time.Duration
	)
	go func() {
		defer close(call.done)
		err = op.run(ctx, w, pod, call.c)
		took = time.Since(began)
	}()
	select {
	case <-call.done:
	case <-time.After(at):
	}
	hit = call.strike(t, fault)
	if op.state == "draining" {
		unthrottleAll(t, call.c)
	}
	select {
	case <-call.done:
	case <-time.After(75 * time.Second):
		t.Fatal("the operation does not end")
	}
	if w.disk {
		n.Disk("")
	}
	if fault == "read-only" {
		n.Restart() // containerd, stock too, could record nothing, and runc not even kill
	}
	t.Logf("struck: %t; the operation ended after %v: %v", hit, took.Round(time.Millisecond), err)
	if err == nil && (!hit || took < at) {
		op.takes = (op.takes + took) / 2 // it was not disturbed
	}
	if err != nil && !hit {
		t.Errorf("nothing was struck, and it failed: %v", err)
	}
	w.alive(t)
	w.clean(t, pod)
	forgetLog(t, pod.Container("", w.config("")))
	if op.pulls {
		n.Registry().ReleaseAll()
	}
	op.made(t, w)
	w.forget(t, op, fault)
	if fault == "image" && hit {
		n.RequireNoLeak(t, w.base)
		w.publish(t)
		w.measure(t) // snapshots have new numbers
	}
	w.requireSame(t)
	// what that leaves the next round sees
	w.requireRestores(t, []string{w.archive, chaosImage}[source], op.lazy, w.counted)
	return hit
}

// alive starts containerd again if it was killed. If it has ended by itself that is a failure.
func (w *chaosWorld) alive(t *testing.T) {
	t.Helper()
	w.n.In(t).Start()
}
