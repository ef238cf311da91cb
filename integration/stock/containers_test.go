package stock

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// container is one that both sides have.
type container struct {
	handle  string
	pod     *pod
	brief   bool // ends by itself
	started bool
}

// The commands of containers: one that runs until it is told to end, and one that does not.
var (
	long  = []string{"/bin/sh", "-c", "trap 'exit 7' TERM; echo begin; while :; do sleep 0.1; done"}
	brief = []string{"/bin/sh", "-c", "echo brief; exit 3"}
)

// create creates a container in a pod; change makes the request another one.
func (w *world) create(op string, p *pod, image string,
	change func(*side, *runtime.CreateContainerRequest)) *container {
	w.t.Helper()
	handle := w.handle("container")
	request := func(s *side) *runtime.CreateContainerRequest {
		r := &runtime.CreateContainerRequest{PodSandboxId: s.id(p.handle), SandboxConfig: p.config(s),
			Config: &runtime.ContainerConfig{
				Metadata: &runtime.ContainerMetadata{Name: handle}, Image: &runtime.ImageSpec{Image: image}, Command: long,
				LogPath: handle + ".log",
				Labels:  map[string]string{"l": "m"}, Annotations: map[string]string{},
				Linux: &runtime.LinuxContainerConfig{Resources: &runtime.LinuxContainerResources{},
					SecurityContext: &runtime.LinuxContainerSecurityContext{
						NamespaceOptions: &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE,
							Pid: runtime.NamespaceMode_CONTAINER},
					}},
			}}
		if change != nil {
			change(s, r)
		}
		return r
	}
	_, _, ok := w.both(op, handle+" of "+image, false, func(ctx context.Context, s *side) (proto.Message, error) {
		resp, err := s.runtime.CreateContainer(ctx, request(s))
		s.learn(handle, resp.GetContainerId())
		return resp, err
	})
	if !ok {
		return nil
	}
	c := &container{handle: handle, pod: p}
	w.containers = append(w.containers, c)
	return c
}

func (w *world) start(c *container) bool {
	_, _, ok := w.both("StartContainer", c.handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: s.id(c.handle)})
	})
	c.started = c.started || ok
	if ok && c.brief {
		w.awaitEnd(c)
	}
	return ok
}

// awaitEnd waits on both sides for the end of a container, so that what follows does not depend on it.
func (w *world) awaitEnd(c *container) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, s := range []*side{w.ours, w.stock} {
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-tick.C {
			resp, err := s.runtime.ContainerStatus(s.node.Context(),
				&runtime.ContainerStatusRequest{ContainerId: s.id(c.handle)})
			if err != nil || resp.GetStatus().GetState() == runtime.ContainerState_CONTAINER_EXITED {
				break
			}
		}
	}
}

func (w *world) status(handle string, verbose bool) {
	w.both("ContainerStatus", handle, true, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: s.id(handle), Verbose: verbose})
	})
}

func (w *world) stop(handle string) {
	w.both("StopContainer", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: s.id(handle), Timeout: 10})
	})
}

func (w *world) remove(handle string) {
	w.both("RemoveContainer", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: s.id(handle)})
	})
}

// checkpoint asks for a checkpoint at a place; "<dir>" stands for the side's own folder. What is there afterwards is
// removed.
func (w *world) checkpoint(op, handle, location string) {
	where := func(s *side) string {
		if rest, ok := cutDir(location); ok {
			return filepath.Join(s.node.Dir(), rest)
		}
		return location
	}
	w.both(op, handle+" at "+location, false, func(ctx context.Context, s *side) (proto.Message, error) {
		r := &runtime.CheckpointContainerRequest{ContainerId: s.id(handle), Location: where(s)}
		for try := 1; ; try++ {
			resp, err := s.runtime.CheckpointContainer(ctx, r)
			// On cgroup v1 runc gives up on a busy machine when processes were not frozen soon (cgroups: fs/freezer.go).
			if err == nil || try == 5 || !strings.Contains(err.Error(), "unable to freeze") {
				return resp, err
			}
		}
	})
	for _, s := range []*side{w.ours, w.stock} {
		if filepath.IsAbs(where(s)) {
			_ = os.Remove(where(s))
		}
	}
}

// randomContainer creates a container with something special, or a request with something wrong.
func (w *world) randomContainer() {
	if len(w.pods) == 0 || len(w.containers) > 8 {
		return
	}
	p := pick(w, w.pods...)
	ends := w.rand.IntN(3) == 0
	taken := ""
	if len(w.containers) > 0 {
		taken = pick(w, w.containers...).handle
	}
	special := w.rand.IntN(16)
	annotations := pick(w, nil, map[string]string{"org.criu.restore/id": "x",
		"org.criu.restore/checkpoint-image-id": pick(w, w.ids...)}, map[string]string{"org.criu.config": "/x"})
	c := w.create("CreateContainer", p, w.anyImage(), func(s *side, r *runtime.CreateContainerRequest) {
		maps.Copy(r.Config.Annotations, annotations)
		if ends {
			r.Config.Command = brief
		}
		switch c := r.Config; special {
		case 0:
			c.Mounts = []*runtime.Mount{{HostPath: s.node.Dir(), ContainerPath: "/mnt", Readonly: true}}
		case 1:
			c.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: 1000}
		case 2:
			c.Linux.SecurityContext.ReadonlyRootfs = true
		case 3:
			c.Tty, c.Stdin = true, true
		case 4:
			c.Linux.Resources.MemoryLimitInBytes = 64 << 20
		case 5:
			c.WorkingDir, c.Envs = "/tmp", []*runtime.KeyValue{{Key: "A", Value: []byte("b")}}
		case 6:
			c.Command, c.Args = nil, long
		case 7:
			c.Linux.SecurityContext.Privileged = true
		case 8:
			c.Metadata.Name = taken
		case 9:
			c.Command = []string{"/no/such/program"}
		case 10:
			c.LogPath = ""
		case 11:
			c.Linux.SecurityContext.RunAsUsername = "nobody-there"
		case 12:
			r.PodSandboxId = nobody
		case 13:
			c.Metadata = nil
		case 14:
			r.SandboxConfig.Metadata = nil
		}
	})
	if c != nil {
		c.brief = ends
		w.status(c.handle, w.rand.IntN(3) == 0)
	}
}

// randomContainerCall calls a method that is about a container.
func (w *world) randomContainerCall() {
	var c *container
	handle := nobody
	if len(w.containers) > 0 && w.rand.IntN(12) > 0 {
		c = pick(w, w.containers...)
		handle = c.handle + pick(w, "", "", "~")
	}
	switch w.rand.IntN(14) {
	case 0, 1, 2:
		if c != nil && !c.started {
			w.start(c)
		} else {
			w.both("StartContainer", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
				return s.runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: s.id(handle)})
			})
		}
	case 3:
		w.stop(handle)
	case 4:
		if c == nil || w.rand.IntN(2) == 0 {
			w.remove(handle)
			w.dropContainer(c)
		}
	case 5:
		w.status(handle, pick(w, true, false))
	case 6:
		w.lists(handle)
	case 7, 8:
		cmd := pick(w, []string{"/bin/sh", "-c", "id; pwd; env | sort; exit 3"}, []string{"/no/such"},
			[]string{"/bin/sh", "-c", "echo err >&2"}, nil)
		w.both("ExecSync", fmt.Sprint(handle, cmd), false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: s.id(handle), Cmd: cmd, Timeout: 20})
		})
	case 9:
		w.both("Exec", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.Exec(ctx, &runtime.ExecRequest{ContainerId: s.id(handle), Cmd: []string{"true"}, Stdout: true})
		})
		w.both("Attach", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.Attach(ctx, &runtime.AttachRequest{ContainerId: s.id(handle), Stdout: true})
		})
	case 10:
		w.both("UpdateContainerResources", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.UpdateContainerResources(ctx, &runtime.UpdateContainerResourcesRequest{
				ContainerId: s.id(handle), Linux: &runtime.LinuxContainerResources{MemoryLimitInBytes: 128 << 20},
			})
		})
	case 11:
		w.both("ReopenContainerLog", handle, false, func(ctx context.Context, s *side) (proto.Message, error) {
			return s.runtime.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: s.id(handle)})
		})
	case 12, 13:
		w.checkpoint("CheckpointContainer", handle, pick(w, "<dir>/x.tar", "<dir>/x.tar", "relative.tar", "",
			"<dir>/absent/x.tar"))
	}
}

func (w *world) dropContainer(gone *container) {
	var left []*container
	for _, c := range w.containers {
		if c != gone {
			left = append(left, c)
		}
	}
	w.containers = left
}
