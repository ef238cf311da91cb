package task

import (
	"time"

	"github.com/docker/go-metrics"
)

// phases times the parts of restores. internal/cri times those of the creation under the same name.
var phases, losses = func() (metrics.LabeledTimer, metrics.Counter) {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	t := ns.NewLabeledTimer("start_phase", "The time that a part of a container's start from a checkpoint takes, by part: criu, drain", "phase")
	c := ns.NewCounter("pages_lost", "Containers that were killed because memory of a lazy restore did not arrive")
	metrics.Register(ns)
	return t, c
}()

func observe(phase string, d time.Duration) { phases.WithValues(phase).Update(d) }
