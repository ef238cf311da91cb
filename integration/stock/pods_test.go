package stock

import (
	"context"
	"maps"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pod is a sandbox that both sides have.
type pod struct {
	handle  string
	config  func(*side) *runtime.PodSandboxConfig
	stopped bool
}

const nobody = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// runPod runs a pod in the node's network, which is the fastest.
func (w *world) runPod(change func(*runtime.PodSandboxConfig)) *pod {
	w.t.Helper()
	handle := w.handle("pod")
	config := func(s *side) *runtime.PodSandboxConfig {
		c := &runtime.PodSandboxConfig{
			Metadata:     &runtime.PodSandboxMetadata{Name: handle, Namespace: "default", Uid: "uid-" + handle, Attempt: 1},
			LogDirectory: filepath.Join(s.node.Dir(), handle), Labels: map[string]string{"app": "x"},
			Annotations: map[string]string{},
			Linux: &runtime.LinuxPodSandboxConfig{
				CgroupParent: s.node.CgroupRoot(),
				SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{
					Network: runtime.NamespaceMode_NODE, Pid: runtime.NamespaceMode_CONTAINER,
				}},
			},
		}
		if change != nil {
			change(c)
		}
		return c
	}
	_, _, ok := w.both("RunPodSandbox", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
		if err := os.MkdirAll(filepath.Join(s.node.Dir(), handle), 0o755); err != nil {
			return nil, err
		}
		resp, err := s.runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config(s)})
		s.learn(handle, resp.GetPodSandboxId())
		return resp, err
	})
	if !ok {
		return nil
	}
	p := &pod{handle: handle, config: config}
	w.pods = append(w.pods, p)
	return p
}

func (w *world) stopPod(handle string) {
	w.both("StopPodSandbox", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: s.id(handle)})
	})
}

func (w *world) removePod(handle string) {
	w.both("RemovePodSandbox", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: s.id(handle)})
	})
}

// forget removes all pods, and with them their containers.
func (w *world) forget() {
	for _, p := range w.pods {
		w.stopPod(p.handle)
		w.removePod(p.handle)
	}
	w.pods, w.containers = nil, nil
}

// randomPodCall calls a method that is about pods.
func (w *world) randomPodCall() {
	handle := nobody
	var p *pod
	if len(w.pods) > 0 && w.rand.IntN(10) > 0 {
		p = pick(w, w.pods...)
		handle = p.handle + pick(w, "", "", "~")
	}
	switch w.rand.IntN(10) {
	case 0, 1:
		if len(w.pods) < 4 {
			extra := pick(w, nil, map[string]string{"example.com/a": "b"}, map[string]string{"org.criu.restore/note": "x"},
				map[string]string{"org.criu.config": "/x"})
			w.runPod(func(c *runtime.PodSandboxConfig) { maps.Copy(c.Annotations, extra) })
		}
	case 2:
		verbose := pick(w, true, false)
		w.both("PodSandboxStatus", handle, true, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: s.id(handle),
				Verbose: verbose})
		})
	case 3:
		filter := func(*side) *runtime.PodSandboxFilter { return nil }
		if p != nil && pick(w, true, false) {
			filter = func(s *side) *runtime.PodSandboxFilter { return &runtime.PodSandboxFilter{Id: s.id(handle)} }
		}
		w.both("ListPodSandbox", handle, true, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{Filter: filter(s)})
		})
	case 4:
		w.both("StreamPodSandboxes", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
			stream, err := s.runtime.StreamPodSandboxes(ctx, &runtime.StreamPodSandboxesRequest{})
			return collect(stream, err, &runtime.ListPodSandboxResponse{})
		})
	case 5:
		if p != nil && w.rand.IntN(3) == 0 {
			w.stopPod(handle)
			p.stopped = true
		}
	case 6:
		if p != nil && w.rand.IntN(3) == 0 {
			w.removePod(handle) // also of one that runs
			w.dropPod(p)
		} else if p == nil {
			w.removePod(handle)
		}
	case 7:
		w.both("PodSandboxStats", handle, true, func(ctx context.Context, s *side) (proto.Message, error) {
			resp, err := s.runtime.PodSandboxStats(ctx, &runtime.PodSandboxStatsRequest{PodSandboxId: s.id(handle)})
			return &runtime.PodSandboxStatsResponse{
				Stats: &runtime.PodSandboxStats{Attributes: resp.GetStats().GetAttributes()}}, err
		})
	case 8:
		w.both("UpdatePodSandboxResources", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.UpdatePodSandboxResources(ctx,
				&runtime.UpdatePodSandboxResourcesRequest{PodSandboxId: s.id(handle)})
		})
	case 9:
		w.both("PortForward", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.PortForward(ctx, &runtime.PortForwardRequest{PodSandboxId: s.id(handle), Port: []int32{80}})
		})
	}
}

func (w *world) dropPod(p *pod) {
	var pods []*pod
	for _, other := range w.pods {
		if other != p {
			pods = append(pods, other)
		}
	}
	var containers []*container
	for _, c := range w.containers {
		if c.pod != p {
			containers = append(containers, c)
		}
	}
	w.pods, w.containers = pods, containers
}
