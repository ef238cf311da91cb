// Package ability is what a node is able to, found out by checks that take too long for the start of containerd.
package ability

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sync/singleflight"

	"github.com/cri-restore/cri-restore/internal/recovery"
)

// checkTimeout bounds one round of the checks. It is patience with a CRIU that hangs, on a machine that does much else:
// at a load of 35 on two processors "criu check" has taken 20 seconds.
const checkTimeout = time.Minute

// Check looks for one thing that the node must have. The error names it, what is wrong with it and the remedy.
type Check func(context.Context) error

// Ability is something that the node can do if all its checks pass. They are made after the start of containerd, and
// as long as one of them fails again whenever somebody asks: what was missing may be there by then, such as the
// loopback interface of a node that has just started. Checks that have passed are not made again.
//
// A nil Ability is one without checks.
type Ability struct {
	what   string
	checks []Check
	passed atomic.Bool
	round  singleflight.Group

	mu   sync.Mutex
	last string // what the log has said last
}

// New returns the ability, whose name completes "this node can ..." in containerd's log. The checks are made
// side by side, and must allow for that.
func New(what string, checks ...Check) *Ability {
	return &Ability{what: what, checks: checks}
}

// Begin makes the checks after some time, unless somebody has asked before, and does not wait for their end.
func (a *Ability) Begin(ctx context.Context, after time.Duration) {
	if a != nil {
		time.AfterFunc(after, func() { recovery.Run(ctx, a.what, func() { a.begin(ctx) }) })
	}
}

// Passed reports whether all checks have passed. It costs nothing.
func (a *Ability) Passed() bool { return a == nil || a.passed.Load() }

// Err returns why the node is not able. It waits for checks that are being made, and makes those that have failed
// again. If ctx ends meanwhile the error is that of ctx, and the checks go on.
func (a *Ability) Err(ctx context.Context) error {
	if a.Passed() {
		return nil
	}
	select {
	case r := <-a.begin(ctx):
		return r.Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// begin joins the round of checks that is being made, or makes one.
func (a *Ability) begin(ctx context.Context) <-chan singleflight.Result {
	return a.round.DoChan("", func() (_ any, retErr error) {
		defer recovery.Into(ctx, &retErr, a.what)
		if a.passed.Load() {
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		defer cancel()
		err := a.run(ctx)
		a.passed.Store(err == nil)
		a.tell(ctx, err)
		return nil, err
	})
}

func (a *Ability) run(ctx context.Context) error {
	errs := make([]error, len(a.checks))
	var all sync.WaitGroup
	for i, check := range a.checks {
		all.Go(func() { errs[i] = recovery.Do(ctx, a.what, func() error { return check(ctx) }) })
	}
	all.Wait()
	var joined error // on one line: it ends up in a log and in CRI errors
	for _, err := range errs {
		switch {
		case joined == nil:
			joined = err
		case err != nil:
			joined = fmt.Errorf("%w; %w", joined, err)
		}
	}
	return joined
}

// tell logs a failure, the same one only once, and the end of it.
func (a *Ability) tell(ctx context.Context, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	said := a.last
	a.last = ""
	if err != nil {
		a.last = err.Error()
	}
	switch {
	case a.last == said:
	case err != nil:
		log.G(ctx).WithError(err).Errorf("this node cannot %s; it is looked at again when somebody asks for it", a.what)
	default:
		log.G(ctx).Infof("this node can %s now", a.what)
	}
}
