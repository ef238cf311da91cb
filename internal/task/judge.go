package task

import (
	"context"

	"github.com/containerd/log"
	"github.com/docker/go-metrics"

	"github.com/cri-restore/cri-restore/internal/restore"
)

// cameBack counts what the guard has found in restored containers before they ran, and would not have allowed.
var cameBack = func() metrics.LabeledCounter {
	ns := metrics.NewNamespace("containerd", "cri_restore", nil)
	c := ns.NewLabeledCounter("inspection_findings",
		"What restored containers had beyond what their pods were granted, by the kind of the check", "check")
	metrics.Register(ns)
	return c
}()

// judge returns an error if the processes of a restore must not run, by what the guard says of them. Where it only
// audits it is logged and counted.
func (b *binding) judge(ctx context.Context, id string, rec *restore.Record) error {
	verdict, err := b.restores.Verdict(rec)
	if verdict == nil {
		return err
	}
	log.G(ctx).WithField("container", id).WithField("took", verdict.Took).WithField("cpu", verdict.CPU).
		Debug("the guard has looked at a restored container")
	for check, n := range verdict.ByCheck {
		cameBack.WithValues(check).Inc(float64(n))
	}
	if found := verdict.Found(); found != nil && err == nil {
		log.G(ctx).WithError(found).WithField("container", id).WithField("checkpoint", rec.Image).
			Warn(`a container runs that verification = "strict" would have killed`)
	}
	return err
}
