package phase

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestTimes(t *testing.T) {
	var times Times
	times.Add(View, 1234567*time.Nanosecond)
	broken := errors.New("broken")
	if err := times.Do(t.Context(), Pull, func(context.Context) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if err := times.Do(t.Context(), Verify, func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
	if len(times) != 2 || times[1].Phase != Verify {
		t.Errorf("a part that failed counts: %v", times)
	}
	times[1].Took = 0
	times.Add(Verify, 2*time.Second)
	times.Add(View, time.Millisecond)
	if got := times.String(); got != "view=2.2ms verify=2s" {
		t.Errorf("got %q", got)
	}
}
