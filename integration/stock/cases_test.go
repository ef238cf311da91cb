package stock

import (
	"context"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cases are chosen calls: those by which our build and stock have ever differed, and every method at least once.
func (w *world) cases() {
	w.t.Helper()
	plain := w.runPod(nil)
	if plain == nil {
		w.t.Fatal("no pod can be run")
	}
	w.casesOfLooks(plain)
	w.casesOfAnnotations(plain)
	w.casesOfCheckpoints(plain)
	w.casesOfMethods(plain)
	w.nodeCalls()
}

// sorted makes of a map a sequence that is always the same.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}

// casesOfLooks create containers of images that look like checkpoints, and of names that could be archives.
func (w *world) casesOfLooks(plain *pod) {
	for _, ref := range append(w.pulled, w.ids...) {
		if c := w.create("CreateContainer looks", plain, ref, nil); c != nil {
			w.start(c)
			w.remove(c.handle)
		}
		w.create("CreateContainer looks", plain, ref, func(_ *side,
			r *runtime.CreateContainerRequest) {
			r.PodSandboxId = nobody
		})
	}
	for _, name := range []string{"/", "/no/such/archive.tar", "relative.tar", "./relative.tar"} {
		w.create("CreateContainer path", plain, name, nil)
	}
	for _, ref := range w.pulled {
		w.pullAgain(ref)
	}
}

// casesOfAnnotations give containers and pods annotations that mean something to the plugin.
func (w *world) casesOfAnnotations(plain *pod) {
	for key, value := range sorted(map[string]string{
		"org.criu.restore/id":                  "4c8a8e6e-5a6b-4f35-9c3c-0a8b1d0f7a11",
		"org.criu.restore/checkpoint-image-id": w.ids[len(w.ids)-1],
		"org.criu.restore/started-fresh":       "because", "org.criu.restore/note": "x", "org.criu.config": "/x",
	}) {
		for _, ref := range w.pulled[:3] {
			c := w.create("CreateContainer annotation", plain, ref,
				func(_ *side, r *runtime.CreateContainerRequest) { r.Config.Annotations[key] = value })
			if c != nil {
				w.start(c)
				w.status(c.handle, true)
				w.images()
				w.remove(c.handle)
			}
		}
	}
	for key, value := range sorted(map[string]string{"org.criu.config": "/x", "org.criu.restore/note": "x",
		"org.criu.restore/lazy-pages": "on"}) {
		p := w.runPod(func(c *runtime.PodSandboxConfig) { c.Annotations[key] = value })
		if p == nil {
			continue
		}
		for _, ref := range w.pulled[:3] {
			if c := w.create("CreateContainer annotation", p, ref, nil); c != nil && w.start(c) {
				op := "CheckpointContainer"
				if strings.HasPrefix(key, "org.criu.restore/") {
					op += " pod annotation"
				}
				w.checkpoint(op, c.handle, "<dir>/case.tar")
			}
		}
		w.stopPod(p.handle)
		w.removePod(p.handle)
		w.dropPod(p)
	}
}

// images compares what the node says of its images.
func (w *world) images() {
	w.both("ListImages", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.images.ListImages(ctx, &runtime.ListImagesRequest{})
	})
	w.both("StreamImages", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
		stream, err := s.images.StreamImages(ctx, &runtime.StreamImagesRequest{})
		return collect(stream, err, &runtime.ListImagesResponse{})
	})
}

// casesOfCheckpoints ask for checkpoints in many places, of containers in many states.
func (w *world) casesOfCheckpoints(plain *pod) {
	c := w.create("CreateContainer", plain, w.pulled[0], nil)
	if c == nil {
		return
	}
	w.checkpoint("CheckpointContainer created", c.handle, "<dir>/case.tar")
	w.start(c)
	w.checkpoint("CheckpointContainer", c.handle, "<dir>/case.tar")
	w.checkpoint("CheckpointContainer", c.handle+"~", "<dir>/a b €.tar")
	w.checkpoint("CheckpointContainer", c.handle, "<dir>/"+strings.Repeat("n", 255))
	w.checkpoint("CheckpointContainer name", c.handle, "<dir>/"+strings.Repeat("n", 256))
	w.checkpoint("CheckpointContainer relative", c.handle, "relative.tar")
	w.checkpoint("CheckpointContainer relative", c.handle, "")
	w.checkpoint("CheckpointContainer image", c.handle, "oci-image:checkpoint.example/a:1")
	w.checkpoint("CheckpointContainer absent", c.handle, "<dir>/absent/case.tar")
	for _, s := range []*side{w.ours, w.stock} {
		if err := os.WriteFile(filepath.Join(s.node.Dir(), "there.tar"), []byte("precious"), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	w.checkpoint("CheckpointContainer existing", c.handle, "<dir>/there.tar")
	w.checkpoint("CheckpointContainer", nobody, "<dir>/case.tar")
	for kind, change := range sorted(map[string]func(file string) error{
		"removed": os.Remove,
		"link":    func(file string) error { return os.Symlink(file+".real", file) },
		"fifo":    func(file string) error { return syscall.Mkfifo(file, 0o600) },
	}) {
		if kind == "fifo" && w.mode != "default" {
			continue // stock waits for somebody to write, and so does whoever leaves the checkpoint to it
		}
		for _, s := range []*side{w.ours, w.stock} {
			file := filepath.Join(s.node.Dir(), plain.handle, c.handle+".log")
			_ = os.Rename(file, file+".real")
			if kind == "removed" || kind == "fifo" && s == w.stock {
				continue
			}
			if err := change(file); err != nil {
				w.t.Fatal(err)
			}
		}
		w.checkpoint("CheckpointContainer log "+kind, c.handle, "<dir>/case.tar")
		for _, s := range []*side{w.ours, w.stock} {
			file := filepath.Join(s.node.Dir(), plain.handle, c.handle+".log")
			_ = os.Rename(file+".real", file)
		}
	}
	w.status(c.handle, true)
	w.stop(c.handle)
	w.checkpoint("CheckpointContainer stopped", c.handle, "<dir>/case.tar")
	w.remove(c.handle)
	w.caseOfFailedDump(plain)
}

// caseOfFailedDump asks for the checkpoint of a process that CRIU cannot dump: it has a deleted file of more than
// CRIU's ghost limit (criu/include/cr_options.h) open.
func (w *world) caseOfFailedDump(plain *pod) {
	c := w.create("CreateContainer", plain, w.pulled[0], func(_ *side, r *runtime.CreateContainerRequest) {
		r.Config.Command = []string{"/bin/sh", "-c", "exec 3<>/big; dd if=/dev/zero bs=1M count=2 >&3 2>&-; rm /big; " +
			">/ready; while :; do sleep 1; done"}
	})
	if c == nil {
		return
	}
	w.start(c)
	w.both("ExecSync", c.handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: s.id(c.handle), Timeout: 60,
			Cmd: []string{"sh", "-c", "until [ -e /ready ]; do sleep 0.1; done"}})
	})
	w.checkpoint("CheckpointContainer", c.handle, "<dir>/case.tar")
	w.checkpoint("CheckpointContainer", c.handle, "<dir>/absent/case.tar")
	w.stop(c.handle)
	w.remove(c.handle)
}

// casesOfMethods call what is left of the methods, with what is there and what is not.
func (w *world) casesOfMethods(plain *pod) {
	c := w.create("CreateContainer", plain, w.pulled[0], nil)
	if c == nil {
		return
	}
	for _, handle := range []string{c.handle, nobody} {
		w.both("StartContainer", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: s.id(handle)})
		})
		w.both("ExecSync", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: s.id(handle), Cmd: []string{"id"}, Timeout: 20})
		})
		w.both("Exec", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.Exec(ctx, &runtime.ExecRequest{ContainerId: s.id(handle), Cmd: []string{"true"}, Stdout: true})
		})
		w.both("Attach", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.Attach(ctx, &runtime.AttachRequest{ContainerId: s.id(handle), Stdout: true})
		})
		w.both("UpdateContainerResources", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.UpdateContainerResources(ctx, &runtime.UpdateContainerResourcesRequest{
				ContainerId: s.id(handle), Linux: &runtime.LinuxContainerResources{MemoryLimitInBytes: 128 << 20},
			})
		})
		w.both("ReopenContainerLog", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: s.id(handle)})
		})
		w.lists(handle)
		w.status(handle, false)
		w.stop(handle)
		w.remove(handle)
		w.remove(handle)
	}
	for _, handle := range []string{plain.handle, nobody} {
		w.both("PodSandboxStatus", handle, true, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: s.id(handle), Verbose: true})
		})
		w.both("PodSandboxStats", handle, true, func(ctx context.Context, s *side) (proto.Message, error) {
			resp, err := s.runtime.PodSandboxStats(ctx, &runtime.PodSandboxStatsRequest{PodSandboxId: s.id(handle)})
			return &runtime.PodSandboxStats{Attributes: resp.GetStats().GetAttributes()}, err
		})
		w.both("UpdatePodSandboxResources", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.UpdatePodSandboxResources(ctx,
				&runtime.UpdatePodSandboxResourcesRequest{PodSandboxId: s.id(handle)})
		})
		w.both("PortForward", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.PortForward(ctx, &runtime.PortForwardRequest{PodSandboxId: s.id(handle), Port: []int32{80}})
		})
	}
	w.both("ListPodSandbox", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	})
	w.both("StreamPodSandboxes", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
		stream, err := s.runtime.StreamPodSandboxes(ctx, &runtime.StreamPodSandboxesRequest{})
		return collect(stream, err, &runtime.ListPodSandboxResponse{})
	})
	w.both("RemoveImage", "none", false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.images.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: "none.example/x:1"}})
	})
	w.both("ImageFsInfo", "", true, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.images.ImageFsInfo(ctx, &runtime.ImageFsInfoRequest{})
	})
}
