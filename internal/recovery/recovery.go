// Package recovery makes an error of a panic: containerd is one process, and a mistake in this module's code must end a
// request and not the node's containerd with all that it is doing.
//
// What is fatal to the Go runtime itself stays so: a stack or memory that is used up, a map that two write to. So what
// a checkpoint says is walked over within limits, and never by recursion as deep as it likes.
package recovery

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/docker/go-metrics"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxValue bounds what of a panic's value is in its error, in bytes: the value may quote a checkpoint.
const maxValue = 200

// panics counts them. There should be none.
var panics = func() metrics.Counter {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	c := ns.NewCounter("panics", "Panics of the restore plugin that became an error")
	metrics.Register(ns)
	return c
}()

// Error is a panic. It is of class errdefs.ErrInternal, and its gRPC code is Internal.
type Error struct {
	what, value string
}

// Error says what panicked, and where to look.
func (e *Error) Error() string {
	return fmt.Sprintf("%s: panic: %s: this is a mistake in the restore plugin: report it with the stack in "+
		"containerd's log", e.what, e.value)
}

// Unwrap returns the class.
func (e *Error) Unwrap() error { return errdefs.ErrInternal }

// GRPCStatus is for containerd's task service, whose errors are gRPC's already.
func (e *Error) GRPCStatus() *status.Status { return status.New(codes.Internal, e.Error()) }

// Into puts a panic of the function that defers it into that function's error, logs its stack and counts it. It has to
// be deferred itself, after what looks at the error: what was deferred later runs earlier.
//
//	defer recovery.Into(ctx, &err, "CreateContainer")
func Into(ctx context.Context, err *error, what string) {
	if value := recover(); value != nil {
		*err = caught(ctx, what, value)
	}
}

// Do calls f and returns its error, or its panic as one.
func Do(ctx context.Context, what string, f func() error) (err error) {
	defer Into(ctx, &err, what)
	return f()
}

// Go calls f in a goroutine of its own, where a panic, for which nobody waits, is logged and counted only.
func Go(ctx context.Context, what string, f func()) {
	go Run(ctx, what, f)
}

// Run is what [Go] starts, for those that start goroutines by other means.
func Run(ctx context.Context, what string, f func()) {
	_ = Do(ctx, what, func() error { f(); return nil })
}

// caught is called by a deferred function, so the stack is that of the panic still.
func caught(ctx context.Context, what string, value any) error {
	panics.Inc()
	text := strings.ToValidUTF8(strings.Join(strings.Fields(fmt.Sprint(value)), " "), "?")
	if len(text) > maxValue {
		text = strings.ToValidUTF8(text[:maxValue], "") + "..."
	}
	e := &Error{what, text}
	log.G(ctx).WithError(e).WithField("stack", string(debug.Stack())).Error("recovered from a panic")
	return e
}
