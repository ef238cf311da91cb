package cri

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/restore"
	"github.com/cri-restore/cri-restore/internal/turn"
	"github.com/cri-restore/cri-restore/internal/verify"
)

// phases returns a verification of a checkpoint of no images, in a turn of the namespace "hostile", one of two.
func phases(t *testing.T, timeout time.Duration) (*verification, context.Context, *turn.Turn) {
	t.Helper()
	turns := turn.New(2)
	mine, err := turns.Take(t.Context(), "hostile")
	check(t, err)
	node := &Node{VerificationTimeout: timeout, Restores: &restore.Store{Turns: turns}}
	return &verification{node: node, dir: t.TempDir(), record: &restore.Record{}}, turn.With(t.Context(), mine), mine
}

// One that does not come back is left alone: others go on, and its namespace waits for it.
func TestVerificationThatHangs(t *testing.T) {
	v, ctx, mine := phases(t, 50*time.Millisecond)
	hang := make(chan struct{})
	_, err := v.within(ctx, func(context.Context, verify.Subject) (*verify.Report,
		error) {
		<-hang
		return &verify.Report{}, nil
	})
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "does not answer") ||
		!strings.Contains(err.Error(), "verification_timeout") {
		t.Errorf("got %v", err)
	}
	mine.Done()
	for range 2 {
		other, err := v.node.Restores.Turns.Take(t.Context(), "honest")
		check(t, err)
		other.Done()
	}
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := v.node.Restores.Turns.Take(soon, "hostile"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("its namespace got another turn: %v", err)
	}
	close(hang)
	again, err := v.node.Restores.Turns.Take(t.Context(), "hostile")
	check(t, err)
	again.Done()
}

// The time is that of both phases together, and who looks at it is told.
func TestVerificationTimeout(t *testing.T) {
	v, ctx, _ := phases(t, time.Minute)
	v.spent = time.Minute
	_, err := v.within(ctx, func(ctx context.Context, _ verify.Subject) (*verify.Report, error) {
		<-ctx.Done()
		return &verify.Report{}, ctx.Err()
	})
	if !errdefs.IsResourceExhausted(err) || strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
	// The request's own end is another matter.
	gone, cancel := context.WithCancel(ctx)
	cancel()
	v.spent = 0
	_, err = v.within(gone, func(ctx context.Context, _ verify.Subject) (*verify.Report, error) {
		return &verify.Report{}, ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v", err)
	}
}

// The honest twin, twice, and a mistake of ours.
func TestVerificationInTime(t *testing.T) {
	v, ctx, mine := phases(t, time.Minute)
	for range 2 {
		is, err := v.within(ctx, func(_ context.Context, s verify.Subject) (*verify.Report, error) {
			if s.Images == nil {
				t.Error("no images")
			}
			return &verify.Report{}, nil
		})
		check(t, err)
		v.record.ImagesDigest = is.digest
		if is.digest == "" || is.report == nil {
			t.Errorf("got %+v", is)
		}
	}
	_, err := v.within(ctx, func(context.Context, verify.Subject) (*verify.Report, error) { panic("a mistake") })
	if !errdefs.IsInternal(err) {
		t.Errorf("got %v", err)
	}
	if v.spent <= 0 {
		t.Errorf("spent %v", v.spent)
	}
	mine.Done()
	again, err := v.node.Restores.Turns.Take(t.Context(), "hostile")
	check(t, err)
	again.Done()
}
