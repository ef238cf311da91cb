package cri

import (
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/docker/go-metrics"
	"google.golang.org/grpc/status"
)

// creations times CreateContainer calls for checkpoints, by the gRPC code of their outcome.
var creations = func() metrics.LabeledTimer {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	t := ns.NewLabeledTimer("create", "The time it takes to create a container from a checkpoint, a pull of its base image included, by gRPC code", "code")
	metrics.Register(ns)
	return t
}()

// findings counts what verification refuses, or would refuse on a node that only audits.
var findings = func() metrics.LabeledCounter {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	c := ns.NewLabeledCounter("findings", "What checkpoints would have given containers beyond what their pods were granted, by the kind of the check", "check")
	metrics.Register(ns)
	return c
}()

func countFindings(byCheck map[string]int) {
	for check, n := range byCheck {
		findings.WithValues(check).Inc(float64(n))
	}
}

func observeCreation(since time.Time, err error) {
	creations.WithValues(status.Code(errgrpc.ToGRPC(err)).String()).UpdateSince(since)
}
