// Package phase is the parts of a restore and the time that each takes: as metrics, as spans, and for the log.
package phase

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/tracing"
	"github.com/docker/go-metrics"
)

// The parts of a restore, in their order. docs/performance.md says what each does.
const (
	// Resolve looks the image up, asks the policy and finds the pod.
	Resolve = "resolve"
	// View makes the checkpoint readable: mounts the image, or unpacks the archive.
	View = "view"
	// Pull waits for the base image.
	Pull = "pull"
	// Container is containerd's own creation of the container.
	Container = "container"
	// Verify compares the checkpoint with what the pod was granted.
	Verify = "verify"
	// Materialise brings files and log into place and writes the record.
	Materialise = "materialise"
	// Prepare is at the start: mounts, the digest of the images that were verified, CRIU's options.
	Prepare = "prepare"
	// Wait is for a turn, where other restores are working.
	Wait = "wait"
	// Serve starts the page server of a lazy restore.
	Serve = "serve"
	// CRIU is the restore itself: shim, runc and CRIU.
	CRIU = "criu"
	// Drain is from then until all memory of a lazy restore has arrived.
	Drain = "drain"
)

var timer = func() metrics.LabeledTimer {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	t := ns.NewLabeledTimer("phase", "The time that a part of a restore takes", "phase")
	metrics.Register(ns)
	return t
}()

// Time is the time of one part.
type Time struct {
	Phase string        `json:"phase"`
	Took  time.Duration `json:"ns"`
}

// Times are the times of a restore, in the order of their ends. The zero value is ready.
type Times []Time

// Do is a part: a span, which the context carries, and a time. Only a part that went well is counted.
func (t *Times) Do(ctx context.Context, phase string, f func(context.Context) error) error {
	ctx, span := tracing.StartSpan(ctx, "cri.restore."+phase)
	defer span.End()
	began := time.Now()
	err := f(ctx)
	span.SetStatus(err)
	if err == nil {
		t.Add(phase, time.Since(began))
	}
	return err
}

// Observe counts the time of a part.
func Observe(phase string, took time.Duration) { timer.WithValues(phase).Update(took) }

// Add counts the time of a part and appends it.
func (t *Times) Add(phase string, took time.Duration) {
	Observe(phase, took)
	t.Append(phase, took)
}

// Append appends the time of a part that is counted already. Parts that come twice add up.
func (t *Times) Append(phase string, took time.Duration) {
	for i := range *t {
		if (*t)[i].Phase == phase {
			(*t)[i].Took += took
			return
		}
	}
	*t = append(*t, Time{phase, took})
}

// String is for the log: "resolve=1.2ms view=3ms".
func (t Times) String() string {
	parts := make([]string, 0, len(t))
	for _, p := range t {
		parts = append(parts, fmt.Sprintf("%s=%s", p.Phase, p.Took.Round(100*time.Microsecond)))
	}
	return strings.Join(parts, " ")
}
