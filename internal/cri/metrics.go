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

func observeCreation(since time.Time, err error) {
	creations.WithValues(status.Code(errgrpc.ToGRPC(err)).String()).UpdateSince(since)
}
