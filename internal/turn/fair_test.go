package turn

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

// takes asks for a turn in the background and says on the channel who has one.
func takes(t *testing.T, q *Queue, tenant string, got chan<- *Turn) {
	t.Helper()
	go func() {
		if turn, err := q.Take(t.Context(), tenant); err == nil {
			got <- turn
		}
	}()
	synctest.Wait()
}

// held counts the turns that are there, by tenant, and returns them.
func held(got chan *Turn) (turns []*Turn, by map[string]int) {
	synctest.Wait()
	by = map[string]int{}
	for {
		select {
		case turn := <-got:
			turns = append(turns, turn)
			by[turn.of]++
		default:
			return turns, by
		}
	}
}

// However many restores a tenant asks for, another gets on at once, whatever theirs do.
func TestOneTenantLeavesATurn(t *testing.T) {
	for limit, most := range map[int]int{1: 1, 2: 1, 4: 3} {
		synctest.Test(t, func(t *testing.T) {
			q, got := New(limit), make(chan *Turn, 100)
			for range 20 {
				takes(t, q, "hostile", got)
			}
			turns, by := held(got)
			if by["hostile"] != most {
				t.Errorf("limit %d: one tenant has %d turns", limit, by["hostile"])
			}
			takes(t, q, "honest", got)
			more, by := held(got)
			if limit > 1 && by["honest"] != 1 {
				t.Errorf("limit %d: another one has %v", limit, by)
			}
			if limit == 1 {
				// The next turn is the other's, before all that have come earlier.
				turns[0].Done()
				turns, by = held(got)
				if by["honest"] != 1 || len(by) != 1 {
					t.Errorf("limit 1: then have %v", by)
				}
			}
			for turns = append(turns, more...); len(turns) > 0; {
				for _, turn := range turns {
					turn.Done()
				}
				turns, _ = held(got)
			}
			if q.free != limit || len(q.tenants) > 0 {
				t.Errorf("limit %d: %d free, tenants %v", limit, q.free, q.tenants)
			}
		})
	}
}

// Several tenants that ask again and again share the turns, and none of them waits for ever.
func TestTenantsTakeTurns(t *testing.T) {
	for limit := 1; limit <= 3; limit++ {
		synctest.Test(t, func(t *testing.T) {
			q, got := New(limit), make(chan *Turn, 100)
			names := []string{"a", "b", "c", "d"}
			for _, name := range names {
				for range 5 {
					takes(t, q, name, got)
				}
			}
			var order []string
			for range 3 * len(names) {
				turns, _ := held(got)
				for _, turn := range turns {
					order = append(order, turn.of)
					turn.Done()
					takes(t, q, turn.of, got) // as if it were new
				}
			}
			count := map[string]int{}
			for _, name := range order[:3*len(names)] {
				count[name]++
			}
			for _, name := range names {
				if count[name] < 2 || count[name] > 4 {
					t.Errorf("limit %d: %v in %q", limit, count, order)
				}
			}
		})
	}
}

// Who comes one at a time, under two names, does not keep out one that waits.
func TestNewTenantsComeBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, got := New(1), make(chan *Turn, 100)
		takes(t, q, "honest", got)
		takes(t, q, "honest", got)
		turns, _ := held(got)
		takes(t, q, "x", got)
		var order []string
		for i := range 6 {
			turns[0].Done()
			if turns, _ = held(got); len(turns) == 0 {
				break
			}
			order = append(order, turns[0].of)
			takes(t, q, []string{"y", "x"}[i%2], got)
		}
		if i := slices.Index(order, "honest"); i < 0 || i > 2 {
			t.Errorf("order %q", order)
		}
	})
}

// What hangs counts against its tenant, and against nobody else.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(2)
		turn, err := q.Take(t.Context(), "hostile")
		if err != nil {
			t.Fatal(err)
		}
		release := Hold(With(t.Context(), turn))
		turn.Done()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := q.Take(ctx, "hostile"); !errdefs.IsResourceExhausted(err) {
			t.Errorf("another turn while one hangs: %v", err)
		}
		for _, name := range []string{"a", "b"} {
			other, err := q.Take(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Done()
		}
		release()
		release()
		if q.tenants["hostile"] != nil || q.free != 0 {
			t.Errorf("left %+v, %d free", q.tenants["hostile"], q.free)
		}
	})
}

// In order, what was held on to is no matter.
func TestHoldThatEnds(t *testing.T) {
	q := New(1)
	for _, ctx := range []context.Context{t.Context(), With(t.Context(), &Turn{})} {
		Hold(ctx)()
	}
	for range 3 {
		turn, err := q.Take(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx := With(t.Context(), turn)
		Hold(ctx)()
		turn.Done()
		Hold(ctx)() // too late
	}
	if q.free != 1 || len(q.tenants) > 0 {
		t.Errorf("%d free, tenants %v", q.free, q.tenants)
	}
}
