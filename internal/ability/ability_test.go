package ability

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// logged is a context whose log can be read.
func logged(t *testing.T) (context.Context, *bytes.Buffer) {
	var out bytes.Buffer
	l := logrus.New()
	l.SetOutput(&out)
	return log.WithLogger(t.Context(), logrus.NewEntry(l)), &out
}

func TestChecksAreMadeAgainUntilTheyPass(t *testing.T) {
	ctx, out := logged(t)
	var made atomic.Int32
	missing := errors.New("lo is down")
	a := New("restore checkpoints", func(context.Context) error { return nil }, func(context.Context) error {
		if made.Add(1) < 4 {
			return missing
		}
		return nil
	})
	for i := range 3 {
		if err := a.Err(ctx); !errors.Is(err, missing) || a.Passed() {
			t.Fatalf("%d: %v, passed %t", i, err, a.Passed())
		}
	}
	for range 3 {
		if err := a.Err(ctx); err != nil || !a.Passed() {
			t.Fatalf("%v, passed %t", err, a.Passed())
		}
	}
	if made.Load() != 4 {
		t.Errorf("%d checks: one that has passed is made again", made.Load())
	}
	for _, line := range []string{"this node cannot restore checkpoints", "this node can restore checkpoints now"} {
		if n := strings.Count(out.String(), line); n != 1 {
			t.Errorf("the log says %d times %q: %s", n, line, out)
		}
	}
}

// What works from the beginning is no news.
func TestPassingSaysNothing(t *testing.T) {
	ctx, out := logged(t)
	a := New("x", func(context.Context) error { return nil })
	if err := a.Err(ctx); err != nil || out.Len() > 0 {
		t.Errorf("%v: %s", err, out)
	}
}

func TestCallersShareARound(t *testing.T) {
	ctx, _ := logged(t)
	var made atomic.Int32
	release, begun := make(chan struct{}), make(chan struct{})
	a := New("x", func(context.Context) error {
		if made.Add(1) == 1 {
			close(begun)
		}
		<-release
		return nil
	})
	a.Begin(ctx, 0)
	<-begun
	gone, cancel := context.WithCancelCause(ctx)
	left := errors.New("the caller has left")
	cancel(left)
	if err := a.Err(gone); !errors.Is(err, left) {
		t.Errorf("got %v", err)
	}
	results := make(chan error, 8)
	for range cap(results) {
		go func() { results <- a.Err(ctx) }()
	}
	close(release)
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if made.Load() != 1 {
		t.Errorf("%d rounds", made.Load())
	}
}

func TestNilIsAble(t *testing.T) {
	var a *Ability
	a.Begin(t.Context(), 0)
	if err := a.Err(t.Context()); err != nil || !a.Passed() {
		t.Error(err)
	}
}
