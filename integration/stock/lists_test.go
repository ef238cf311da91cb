package stock

import (
	"context"
	"strings"

	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// lists asks for containers and their statistics in all ways.
func (w *world) lists(handle string) {
	filter := func(*side) *runtime.ContainerFilter { return nil }
	if handle != nobody && pick(w, true, false) {
		filter = func(s *side) *runtime.ContainerFilter { return &runtime.ContainerFilter{Id: s.id(handle)} }
	}
	w.both("ListContainers", handle, true, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.ListContainers(ctx, &runtime.ListContainersRequest{Filter: filter(s)})
	})
	w.both("StreamContainers", handle, true, func(ctx context.Context, s *side) (proto.Message, error) {
		stream, err := s.runtime.StreamContainers(ctx, &runtime.StreamContainersRequest{Filter: filter(s)})
		return collect(stream, err, &runtime.ListContainersResponse{})
	})
	w.both("ContainerStats", handle, true, func(ctx context.Context, s *side) (proto.Message, error) {
		resp, err := s.runtime.ContainerStats(ctx, &runtime.ContainerStatsRequest{ContainerId: s.id(handle)})
		return attributes(resp.GetStats()), err
	})
	w.both("ListContainerStats", handle, true, func(ctx context.Context, s *side) (proto.Message, error) {
		resp, err := s.runtime.ListContainerStats(ctx, &runtime.ListContainerStatsRequest{})
		return attributes(resp.GetStats()...), err
	})
	w.both("StreamContainerStats", handle, true, func(ctx context.Context, s *side) (proto.Message, error) {
		stream, err := s.runtime.StreamContainerStats(ctx, &runtime.StreamContainerStatsRequest{})
		all := &runtime.ListContainerStatsResponse{}
		_, err = collect(stream, err, all)
		return attributes(all.GetStats()...), err
	})
}

// attributes leaves of statistics whose they are: what is measured is chance.
func attributes(all ...*runtime.ContainerStats) *runtime.ListContainerStatsResponse {
	out := &runtime.ListContainerStatsResponse{}
	for _, st := range all {
		if st != nil {
			out.Stats = append(out.Stats, &runtime.ContainerStats{Attributes: st.GetAttributes()})
		}
	}
	return out
}

// random makes one random call.
func (w *world) random() {
	if len(w.pods) == 0 {
		w.runPod(nil)
		return
	}
	switch n := w.rand.IntN(20); {
	case n < 4:
		w.randomPodCall()
	case n < 8:
		w.randomContainer()
	case n < 16:
		w.randomContainerCall()
	case n < 19:
		w.randomImageCall()
	default:
		w.nodeCalls()
	}
}

func cutDir(location string) (string, bool) { return strings.CutPrefix(location, "<dir>/") }
