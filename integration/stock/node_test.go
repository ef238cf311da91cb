package stock

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// collect puts the lists of all messages of a stream into the one list that the message has.
func collect[T any](stream grpc.ServerStreamingClient[T], err error, into proto.Message) (proto.Message, error) {
	if err != nil {
		return nil, err
	}
	list := func(m proto.Message) protoreflect.List {
		fields := m.ProtoReflect().Descriptor().Fields()
		return m.ProtoReflect().Mutable(fields.Get(0)).List()
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return into, nil
		}
		if err != nil {
			return nil, err
		}
		from, to := list(any(m).(proto.Message)), list(into)
		for i := range from.Len() {
			to.Append(from.Get(i))
		}
	}
}

// pull pulls an image on both sides.
func (w *world) pull(ref string) {
	w.both("PullImage", ref, false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.images.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	})
	answer, _, ok := w.both("ImageStatus", ref, true, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.images.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref}})
	})
	if ok {
		w.ids = append(w.ids, answer.(*runtime.ImageStatusResponse).GetImage().GetId())
	}
}

// anyImage is a name of an image, or of none.
func (w *world) anyImage() string {
	id := pick(w, w.ids...)
	return pick(w, pick(w, w.pulled...), pick(w, w.pulled...), id, id[len("sha256:"):][:16], "none.example/x:1", "",
		"No:Such::Name")
}

// randomImageCall calls a method of the image service.
func (w *world) randomImageCall() {
	ref := w.anyImage()
	switch w.rand.IntN(7) {
	case 0, 1:
		verbose := pick(w, true, false)
		w.both("ImageStatus", ref, true, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.images.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref},
				Verbose: verbose})
		})
	case 2:
		w.both("ListImages", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.images.ListImages(ctx, &runtime.ListImagesRequest{})
		})
	case 3:
		w.both("StreamImages", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
			stream, err := s.images.StreamImages(ctx, &runtime.StreamImagesRequest{})
			return collect(stream, err, &runtime.ListImagesResponse{})
		})
	case 4:
		w.pullAgain(pick(w, w.pulled...))
	case 5:
		// Gone, and back: what is in use keeps running.
		ref := pick(w, w.pulled[1:]...)
		w.both("RemoveImage", ref, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.images.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: ref}})
		})
		for _, ref := range w.pulled { // a removal takes all references of an ID
			w.pullAgain(ref)
		}
	case 6:
		w.both("ImageFsInfo", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.images.ImageFsInfo(ctx, &runtime.ImageFsInfoRequest{})
		})
	}
}

func (w *world) pullAgain(ref string) {
	w.both("PullImage", ref, false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.images.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	})
}

// nodeCalls calls every method that is about the node.
func (w *world) nodeCalls() {
	w.both("Version", "", false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.Version(ctx, &runtime.VersionRequest{})
	})
	w.both("Status", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.Status(ctx, &runtime.StatusRequest{})
	})
	w.both("RuntimeConfig", "", false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.RuntimeConfig(ctx, &runtime.RuntimeConfigRequest{})
	})
	w.both("UpdateRuntimeConfig", "", false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.UpdateRuntimeConfig(ctx, &runtime.UpdateRuntimeConfigRequest{})
	})
	w.both("ListMetricDescriptors", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.ListMetricDescriptors(ctx, &runtime.ListMetricDescriptorsRequest{})
	})
	// What they measure is chance; that they answer is not.
	w.both("ListPodSandboxMetrics", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
		_, err := s.runtime.ListPodSandboxMetrics(ctx, &runtime.ListPodSandboxMetricsRequest{})
		return &runtime.ListPodSandboxMetricsResponse{}, err
	})
	w.both("StreamPodSandboxMetrics", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
		stream, err := s.runtime.StreamPodSandboxMetrics(ctx, &runtime.StreamPodSandboxMetricsRequest{})
		_, err = collect(stream, err, &runtime.ListPodSandboxMetricsResponse{})
		return &runtime.ListPodSandboxMetricsResponse{}, err
	})
	w.both("ListPodSandboxStats", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
		resp, err := s.runtime.ListPodSandboxStats(ctx, &runtime.ListPodSandboxStatsRequest{})
		return podAttributes(resp.GetStats()), err
	})
	w.both("StreamPodSandboxStats", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
		stream, err := s.runtime.StreamPodSandboxStats(ctx, &runtime.StreamPodSandboxStatsRequest{})
		all := &runtime.ListPodSandboxStatsResponse{}
		_, err = collect(stream, err, all)
		return podAttributes(all.GetStats()), err
	})
	w.both("CheckpointPod", "", false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.CheckpointPod(ctx, &runtime.CheckpointPodRequest{})
	})
	w.both("RestorePod", "", false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.RestorePod(ctx, &runtime.RestorePodRequest{})
	})
}

// podAttributes leaves of statistics whose they are.
func podAttributes(all []*runtime.PodSandboxStats) *runtime.ListPodSandboxStatsResponse {
	out := &runtime.ListPodSandboxStatsResponse{}
	for _, st := range all {
		out.Stats = append(out.Stats, &runtime.PodSandboxStats{Attributes: st.GetAttributes()})
	}
	return out
}
