package cri

import (
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/docker/go-metrics"
	"google.golang.org/grpc/status"

	"github.com/cri-restore/cri-restore/internal/dump"
)

// creations times CreateContainer calls for checkpoints, by the gRPC code of their outcome.
var creations = func() metrics.LabeledTimer {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	t := ns.NewLabeledTimer("create", "The time it takes to create a container from a checkpoint, a pull of its base "+
		"image included, by gRPC code", "code")
	metrics.Register(ns)
	return t
}()

// findings counts what verification refuses, or would refuse on a node that only audits.
var findings = func() metrics.LabeledCounter {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	c := ns.NewLabeledCounter("findings", "What checkpoints would have given containers beyond what their pods were "+
		"granted, by the kind of the check", "check")
	metrics.Register(ns)
	return c
}()

// freshStarts counts containers that were started from their base image instead, by the gRPC code of the reason.
var freshStarts = func() metrics.LabeledCounter {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	c := ns.NewLabeledCounter("fresh_starts", "Containers that were started from their base image because their "+
		"checkpoint could not be restored and their pod wants that, by gRPC code", "code")
	metrics.Register(ns)
	return c
}()

func countFresh(why error) { freshStarts.WithValues(status.Code(errgrpc.ToGRPC(why)).String()).Inc() }

func countFindings(byCheck map[string]int) {
	for check, n := range byCheck {
		findings.WithValues(check).Inc(float64(n))
	}
}

func observeCreation(since time.Time, err error) {
	creations.WithValues(status.Code(errgrpc.ToGRPC(err)).String()).UpdateSince(since)
}

// checkpoints times CheckpointContainer calls, by the gRPC code of their outcome; steps the parts of those
// that succeeded, and among them how long their containers were frozen.
var checkpoints, steps = func() (all, steps metrics.LabeledTimer) {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	all = ns.NewLabeledTimer("checkpoint", "The time it takes to checkpoint a container, by gRPC code", "code")
	steps = ns.NewLabeledTimer("checkpoint_step", "The time that the steps of a checkpoint take: frozen, and criu and "+
		"diff within that; write", "step")
	metrics.Register(ns)
	return all, steps
}()

// commands times the commands of pod annotations, by the annotation and the gRPC code of their outcome.
var commands = func() metrics.LabeledTimer {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	t := ns.NewLabeledTimer("command", "The time it takes to run the commands of pod annotations, by annotation and "+
		"gRPC code", "annotation", "code")
	metrics.Register(ns)
	return t
}()

func observeCommand(annotation string, since time.Time, err error) {
	commands.WithValues(annotation, status.Code(errgrpc.ToGRPC(err)).String()).UpdateSince(since)
}

func observeCheckpoint(since time.Time, err error) {
	checkpoints.WithValues(status.Code(errgrpc.ToGRPC(err)).String()).UpdateSince(since)
}

func observeDump(t *dump.Times) {
	for step, took := range t.All() {
		steps.WithValues(step).Update(took)
	}
}
