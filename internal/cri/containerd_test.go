package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	api "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/origin"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// fakeRuntime is containerd's CRI runtime service as far as a restore sees it:
// its containers are in the metadata store and have a snapshot, names are
// reserved, and IDs may be shortened.
type fakeRuntime struct {
	runtime.UnimplementedRuntimeServiceServer

	f           *faults
	containers  containers.Store
	snapshotter snapshots.Snapshotter
	sandboxes   map[string]*runtime.PodSandboxStatus
	after       func() // at the end of CreateContainer
	keep        map[string]bool

	mu       sync.Mutex
	last     int
	names    map[string]string // by container
	configs  map[string]*runtime.ContainerConfig
	requests []*runtime.CreateContainerRequest
	removed  []string
}

func (s *fakeRuntime) PodSandboxStatus(_ context.Context,
	r *runtime.PodSandboxStatusRequest) (*runtime.PodSandboxStatusResponse, error) {
	if err := s.f.call("sandbox status"); err != nil {
		return nil, err
	}
	st, ok := s.sandboxes[r.GetPodSandboxId()]
	if !ok {
		return nil, fmt.Errorf("sandbox %q: %w", r.GetPodSandboxId(), errdefs.ErrNotFound)
	}
	return &runtime.PodSandboxStatusResponse{Status: st}, nil
}

func (s *fakeRuntime) CreateContainer(ctx context.Context,
	r *runtime.CreateContainerRequest) (*runtime.CreateContainerResponse, error) {
	if err := errors.Join(s.f.call("CreateContainer"), ctx.Err()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, proto.Clone(r).(*runtime.CreateContainerRequest))
	name := r.GetPodSandboxId() + "/" + r.GetConfig().GetMetadata().GetName()
	if attempt := r.GetConfig().GetMetadata().GetAttempt(); attempt > 0 {
		name += fmt.Sprintf("_%d", attempt)
	}
	for id, taken := range s.names {
		if taken == name {
			return nil, fmt.Errorf("name %q is reserved for %s: %w", name, id, errdefs.ErrAlreadyExists)
		}
	}
	s.last++
	id := fmt.Sprintf("%064x", s.last<<32+0xc0ffee)
	mounts, err := s.snapshotter.Prepare(ctx, id, "")
	if err != nil {
		return nil, err
	}
	for file, text := range map[string]string{"etc/passwd": "root", "data/gone": "base", "data/kept": "base"} {
		path := filepath.Join(mounts[0].Source, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return nil, err
		}
	}
	metadata, err := json.Marshal(map[string]any{"Version": "v1",
		"Metadata": map[string]any{"ID": id, "Config": r.GetConfig()}})
	if err != nil {
		return nil, err
	}
	spec, err := json.Marshal(specOfPod())
	if err != nil {
		return nil, err
	}
	if _, err := (&origin.Containers{ContainersClient: containersService{store: s.containers}}).Create(ctx,
		&api.CreateContainerRequest{Container: &api.Container{
			ID: id, Sandbox: r.GetPodSandboxId(), Image: r.GetConfig().GetImage().GetImage(),
			Labels:      map[string]string{"io.cri-containerd.kind": "container"},
			Runtime:     &api.Container_Runtime{Name: restore.RuntimeRunc},
			Spec:        jsonAny("types.containerd.io/opencontainers/runtime-spec/1/Spec", spec),
			Snapshotter: snapshotter, SnapshotKey: id,
			Extensions: map[string]*anypb.Any{"io.cri-containerd.container.metadata": jsonAny("x", metadata)},
		}}); err != nil {
		return nil, err
	}
	s.names[id] = name
	if s.configs == nil {
		s.configs = map[string]*runtime.ContainerConfig{}
	}
	s.configs[id] = s.requests[len(s.requests)-1].GetConfig()
	if s.after != nil {
		s.after()
	}
	return &runtime.CreateContainerResponse{ContainerId: id}, nil
}

// containersService is containerd's in-process service of containers.
type containersService struct {
	api.ContainersClient
	store containers.Store
}

func (s containersService) Create(ctx context.Context, r *api.CreateContainerRequest,
	_ ...grpc.CallOption) (*api.CreateContainerResponse, error) {
	c := r.GetContainer()
	extensions := map[string]typeurl.Any{}
	for key, value := range c.GetExtensions() {
		extensions[key] = value
	}
	_, err := s.store.Create(ctx, containers.Container{
		ID: c.GetID(), SandboxID: c.GetSandbox(), Image: c.GetImage(), Labels: c.GetLabels(),
		Runtime: containers.RuntimeInfo{Name: c.GetRuntime().GetName()},
		Spec:    c.GetSpec(), Snapshotter: c.GetSnapshotter(), SnapshotKey: c.GetSnapshotKey(), Extensions: extensions,
	})
	return &api.CreateContainerResponse{}, err
}

// specOfPod is the spec of every container of the fake, and of the one that
// was checkpointed.
func specOfPod() *specs.Spec {
	return &specs.Spec{
		Version: "1.2.0", Root: &specs.Root{Path: "rootfs"},
		Process:     &specs.Process{Args: []string{"count", "up"}, Cwd: "/"},
		Annotations: map[string]string{"io.kubernetes.cri.container-name": "counter"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace},
			{Type: specs.MountNamespace}}},
	}
}

func jsonAny(url string, value []byte) *anypb.Any { return &anypb.Any{TypeUrl: url, Value: value} }

// full returns the ID that begins with id.
func (s *fakeRuntime) full(id string) (string, bool) {
	for full := range s.names {
		if id != "" && strings.HasPrefix(full, id) {
			return full, true
		}
	}
	return "", false
}

func (s *fakeRuntime) RemoveContainer(ctx context.Context,
	r *runtime.RemoveContainerRequest) (*runtime.RemoveContainerResponse, error) {
	if err := errors.Join(s.f.call("RemoveContainer"), ctx.Err()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.full(r.GetContainerId())
	if !ok {
		return &runtime.RemoveContainerResponse{}, nil // as containerd
	}
	return &runtime.RemoveContainerResponse{}, s.remove(ctx, id)
}

func (s *fakeRuntime) remove(ctx context.Context, id string) error {
	if err := errors.Join(s.containers.Delete(ctx, id), s.snapshotter.Remove(ctx, id)); err != nil {
		return err
	}
	delete(s.names, id)
	s.removed = append(s.removed, id)
	return nil
}

func (s *fakeRuntime) ContainerStatus(_ context.Context,
	r *runtime.ContainerStatusRequest) (*runtime.ContainerStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.full(r.GetContainerId())
	if !ok {
		return nil, fmt.Errorf("container %q: %w", r.GetContainerId(), errdefs.ErrNotFound)
	}
	return &runtime.ContainerStatusResponse{Status: &runtime.ContainerStatus{Id: id}}, nil
}

func (s *fakeRuntime) ListContainers(_ context.Context,
	r *runtime.ListContainersRequest) (*runtime.ListContainersResponse, error) {
	if err := s.f.call("ListContainers"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &runtime.ListContainersResponse{}
	for id, name := range s.names {
		if pod := r.GetFilter().GetPodSandboxId(); pod == "" || strings.HasPrefix(name, pod) {
			config := s.configs[id]
			resp.Containers = append(resp.Containers, &runtime.Container{Id: id, Metadata: config.GetMetadata(),
				Annotations: config.GetAnnotations(),
				State:       runtime.ContainerState_CONTAINER_EXITED})
		}
	}
	return resp, nil
}

// RemovePodSandbox removes the containers that it may.
func (s *fakeRuntime) RemovePodSandbox(ctx context.Context,
	r *runtime.RemovePodSandboxRequest) (*runtime.RemovePodSandboxResponse, error) {
	if err := s.f.call("RemovePodSandbox"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for id, name := range s.names {
		if !strings.HasPrefix(name, r.GetPodSandboxId()) {
			continue
		}
		if s.keep[id] {
			err = errors.Join(err, fmt.Errorf("container %s is busy: %w", id, errdefs.ErrUnavailable))
			continue
		}
		err = errors.Join(err, s.remove(ctx, id))
	}
	return &runtime.RemovePodSandboxResponse{}, err
}

// fakeImages is containerd's CRI image service.
type fakeImages struct {
	runtime.UnimplementedImageServiceServer

	f     *faults
	mu    sync.Mutex
	known map[string]string // reference or ID to ID
	pull  func(context.Context, *runtime.PullImageRequest) (string, error)
	pulls []*runtime.PullImageRequest
}

func (s *fakeImages) add(ref, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[ref] = id
}

func (s *fakeImages) ImageStatus(_ context.Context, r *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse,
	error) {
	if err := s.f.call("image status"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.known[r.GetImage().GetImage()]
	if !ok {
		return &runtime.ImageStatusResponse{}, nil
	}
	img := &runtime.Image{Id: id}
	for ref, of := range s.known {
		if of == id && ref != id {
			img.RepoTags = append(img.RepoTags, ref)
		}
	}
	return &runtime.ImageStatusResponse{Image: img}, nil
}

func (s *fakeImages) ListImages(context.Context, *runtime.ListImagesRequest) (*runtime.ListImagesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &runtime.ListImagesResponse{}
	for ref, id := range s.known {
		if ref == id {
			resp.Images = append(resp.Images, &runtime.Image{Id: id})
		}
	}
	return resp, nil
}

// StreamImages sends one image at a time.
func (s *fakeImages) StreamImages(_ *runtime.StreamImagesRequest,
	stream grpc.ServerStreamingServer[runtime.StreamImagesResponse]) error {
	resp, err := s.ListImages(stream.Context(), nil)
	for _, img := range resp.GetImages() {
		err = errors.Join(err, stream.Send(&runtime.StreamImagesResponse{Images: []*runtime.Image{img}}))
	}
	return err
}

func (s *fakeImages) PullImage(ctx context.Context, r *runtime.PullImageRequest) (*runtime.PullImageResponse, error) {
	s.mu.Lock()
	s.pulls = append(s.pulls, r)
	pull := s.pull
	s.mu.Unlock()
	id, err := pull(ctx, r)
	if err != nil {
		return nil, err
	}
	return &runtime.PullImageResponse{ImageRef: id}, nil
}
