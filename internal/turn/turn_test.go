package turn

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

func TestQueueBounds(t *testing.T) {
	q := New(3)
	var now, most atomic.Int32
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			turn, err := q.Take(t.Context(), fmt.Sprint(i%2))
			if err != nil {
				t.Error(err)
				return
			}
			defer turn.Done()
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			runtime.Gosched()
			now.Add(-1)
		})
	}
	wg.Wait()
	if most.Load() > 3 {
		t.Errorf("%d at once", most.Load())
	}
}

func TestNoLimit(t *testing.T) {
	for _, q := range []*Queue{nil, New(0)} {
		for range 100 {
			if _, err := q.Take(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := New(-1).Limit(); got != 2*runtime.GOMAXPROCS(0) {
		t.Errorf("default %d", got)
	}
}

// Who waits in vain is told so while there is time for an answer.
func TestTakeGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(1)
		turn, err := q.Take(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		for total, want := range map[time.Duration]time.Duration{2 * time.Minute: 90 * time.Second,
			4 * time.Second: 3 * time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), total)
			began := time.Now()
			_, err := q.Take(ctx, "b")
			if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "max_concurrent_restores") ||
				ctx.Err() != nil {
				t.Errorf("got %v, context %v", err, ctx.Err())
			}
			if took := time.Since(began); took != want {
				t.Errorf("gave up after %v, want %v", took, want)
			}
			cancel()
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := q.Take(ctx, "b"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		turn.Done()
		turn.Done() // no more than once
		if _, err := q.Take(ctx, "b"); !errors.Is(err, context.Canceled) {
			t.Errorf("a turn for one who has gone: %v", err)
		}
		// None of them has kept a turn.
		turn, err = q.Take(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		turn.Done()
		if len(q.tenants) > 0 || q.free != 1 {
			t.Errorf("left %v, %d free", q.tenants, q.free)
		}
	})
}
