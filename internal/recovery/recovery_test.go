package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// logged returns a context whose log goes to the buffer.
func logged(t *testing.T) (context.Context, *bytes.Buffer) {
	t.Helper()
	l, out := logrus.New(), &bytes.Buffer{}
	l.SetOutput(out)
	return log.WithLogger(t.Context(), logrus.NewEntry(l)), out
}

func dereference(p *struct{ field int }) error { return fmt.Errorf("%d", p.field) }

func TestInto(t *testing.T) {
	ctx, out := logged(t)
	var seen error
	f := func() (err error) {
		defer func() { seen = err }()
		defer Into(ctx, &err, "CreateContainer")
		return dereference(nil)
	}
	err := f()
	if !errdefs.IsInternal(err) || status.Code(err) != codes.Internal || !errors.Is(seen, err) {
		t.Errorf("got %v, what was deferred earlier saw %v", err, seen)
	}
	for _, want := range []string{"CreateContainer", "nil pointer"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if !strings.Contains(out.String(), "dereference") {
		t.Errorf("the stack is not in the log: %s", out)
	}
	// Wrapped it is what it was, also behind gRPC.
	wrapped := fmt.Errorf("checkpoint x: %w", err)
	if got := errgrpc.ToGRPC(wrapped); status.Code(got) != codes.Internal || !errdefs.IsInternal(errgrpc.ToNative(got)) {
		t.Errorf("got %v", got)
	}
}

// An error stays what it is.
func TestDoWithoutPanic(t *testing.T) {
	ctx, out := logged(t)
	broken := errors.New("broken")
	for _, want := range []error{nil, broken} {
		if err := Do(ctx, "x", func() error { return want }); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if out.Len() > 0 {
		t.Errorf("logged %s", out)
	}
}

// fired gets the message of every line that is logged.
type fired chan string

func (fired) Levels() []logrus.Level { return logrus.AllLevels }

func (f fired) Fire(e *logrus.Entry) error {
	f <- fmt.Sprint(e.Data[logrus.ErrorKey])
	return nil
}

func TestGo(t *testing.T) {
	l, lines := logrus.New(), make(fired, 1)
	l.SetOutput(&bytes.Buffer{})
	l.AddHook(lines)
	ctx := log.WithLogger(t.Context(), logrus.NewEntry(l))
	Go(ctx, "drain", func() { panic("a\nb" + strings.Repeat("x", 1000)) })
	line := <-lines
	if !strings.Contains(line, "drain: panic: a bx") || strings.Contains(line, strings.Repeat("x", maxValue)) {
		t.Errorf("logged %q", line)
	}
	Run(ctx, "drain", func() { panic(strings.Repeat("\xff", 1000)) })
	if line := <-lines; !strings.Contains(line, "panic: ?") {
		t.Errorf("logged %q", line)
	}
}
