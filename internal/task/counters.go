package task

import "github.com/docker/go-metrics"

// losses counts containers that were killed for want of memory, pages what CRIU itself has restored.
var losses, pages = func() (metrics.Counter, metrics.Counter) {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	lost := ns.NewCounter("pages_lost", "Containers that were killed because memory of a lazy restore did not arrive")
	restored := ns.NewCounter("pages", "Pages of memory that CRIU has restored before processes ran")
	metrics.Register(ns)
	return lost, restored
}()
