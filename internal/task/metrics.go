package task

import (
	"context"
	"slices"
	"time"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cri-restore/cri-restore/internal/recovery"
)

// Metrics adds the restored tasks, for which their shim has no answer, to what
// the inner service collects.
func (t *Tasks) Metrics(ctx context.Context, r *api.MetricsRequest, opts ...grpc.CallOption) (_ *api.MetricsResponse,
	retErr error) {
	defer recovery.Into(ctx, &retErr, "task metrics")
	resp, err := t.TasksClient.Metrics(ctx, r, opts...)
	b := t.bound.Load()
	if err != nil || b == nil {
		return resp, err
	}
	ids := b.cgroups.ids()
	if len(ids) == 0 {
		return resp, nil
	}
	namespace, ok := namespaces.Namespace(ctx)
	if !ok || namespace != b.namespace {
		return resp, nil
	}
	filter, err := filters.ParseAll(r.Filters...)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	for _, id := range ids {
		if !filter.Match(adapt(id, namespace)) || slices.ContainsFunc(resp.Metrics,
			func(m *types.Metric) bool { return m.ID == id }) {
			continue
		}
		m, err := b.cgroups.metric(id)
		if err != nil {
			if !errdefs.IsNotFound(err) {
				log.G(ctx).WithError(err).WithField("container", id).Error("failed to collect metrics of a restored container")
			}
			continue
		}
		resp.Metrics = append(resp.Metrics, m)
	}
	return resp, nil
}

// adapt gives filters the fields that containerd's own task service knows
// (containerd: plugins/services/tasks/local.go).
func adapt(id, namespace string) filters.Adaptor {
	return filters.AdapterFunc(func(fieldpath []string) (string, bool) {
		switch fieldpath[0] {
		case "id":
			return id, true
		case "namespace":
			return namespace, true
		}
		return "", false
	})
}

func (c *cgroups) metric(id string) (*types.Metric, error) {
	collected := time.Now()
	stats, err := c.stats(id)
	if err != nil {
		return nil, err
	}
	data, err := typeurl.MarshalAnyToProto(stats)
	if err != nil {
		return nil, err
	}
	return &types.Metric{Timestamp: timestamppb.New(collected), ID: id, Data: data}, nil
}
