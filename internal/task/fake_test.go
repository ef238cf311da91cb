package task

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// fakeTasks is containerd's task service. What is not set is answered as if
// there were no such task.
type fakeTasks struct {
	api.TasksClient // nil: an unexpected call panics

	create  func(*api.CreateTaskRequest) (*api.CreateTaskResponse, error)
	start   func(context.Context, *api.StartRequest) (*api.StartResponse, error)
	remove  func(*api.DeleteTaskRequest) (*api.DeleteResponse, error)
	metrics func(*api.MetricsRequest) (*api.MetricsResponse, error)
	tasks   map[string]*tasktypes.Process
	pids    map[string][]uint32
	// root is the directory of the restores, in which a start that succeeds leaves what the guard says: nothing if it is
	// "".
	root, verdict string

	mu    sync.Mutex
	calls []string
}

func (f *fakeTasks) called(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, what)
}

func (f *fakeTasks) made(what string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.calls, what)
}

var errNoTask = errgrpc.ToGRPC(errdefs.ErrNotFound)

func (f *fakeTasks) Create(_ context.Context, r *api.CreateTaskRequest, _ ...grpc.CallOption) (*api.CreateTaskResponse,
	error) {
	f.called("create " + r.ContainerID)
	return f.create(r)
}

func (f *fakeTasks) Start(ctx context.Context, r *api.StartRequest, _ ...grpc.CallOption) (*api.StartResponse, error) {
	f.called("start " + r.ContainerID)
	resp, err := f.start(ctx, r)
	if armed, _ := filepath.Glob(filepath.Join(f.root, "*", "guard")); err == nil && f.verdict != "" {
		for _, dir := range armed {
			if err := os.WriteFile(filepath.Join(dir, "verdict.json"), []byte(f.verdict), 0o600); err != nil {
				return nil, err
			}
		}
	}
	return resp, err
}

func (f *fakeTasks) Delete(_ context.Context, r *api.DeleteTaskRequest, _ ...grpc.CallOption) (*api.DeleteResponse,
	error) {
	f.called("delete " + r.ContainerID)
	if f.remove == nil {
		return &api.DeleteResponse{}, nil
	}
	return f.remove(r)
}

func (f *fakeTasks) Metrics(_ context.Context, r *api.MetricsRequest, _ ...grpc.CallOption) (*api.MetricsResponse,
	error) {
	if f.metrics == nil {
		return &api.MetricsResponse{}, nil
	}
	return f.metrics(r)
}

func (f *fakeTasks) Get(_ context.Context, r *api.GetRequest, _ ...grpc.CallOption) (*api.GetResponse, error) {
	p, ok := f.tasks[r.ContainerID]
	if !ok {
		return nil, errNoTask
	}
	return &api.GetResponse{Process: p}, nil
}

func (f *fakeTasks) ListPids(_ context.Context, r *api.ListPidsRequest, _ ...grpc.CallOption) (*api.ListPidsResponse,
	error) {
	pids, ok := f.pids[r.ContainerID]
	if !ok {
		return nil, errNoTask
	}
	resp := &api.ListPidsResponse{}
	for _, pid := range pids {
		resp.Processes = append(resp.Processes, &tasktypes.ProcessInfo{Pid: pid})
	}
	return resp, nil
}

// published are the events that the watcher for OOM kills has published.
type published chan events.Event

func (p published) Publish(_ context.Context, _ string, event events.Event) error {
	p <- event
	return nil
}

// world is a decorated task service on containerd's own metadata.
type world struct {
	t     *testing.T
	ctx   context.Context
	inner *fakeTasks
	tasks *Tasks
	store *restore.Store
	oom   published
}

// newWorld returns a service to which nothing is bound yet.
func newWorld(t *testing.T) *world {
	t.Helper()
	root := t.TempDir()
	blobs, err := local.NewStore(filepath.Join(root, "content"))
	check(t, err)
	bolt, err := bbolt.Open(filepath.Join(root, "meta.db"), 0o600, nil)
	check(t, err)
	t.Cleanup(func() { check(t, bolt.Close()) })
	db := metadata.NewDB(bolt, blobs, nil)
	check(t, db.Init(t.Context()))
	w := &world{
		t: t, inner: &fakeTasks{}, oom: make(published, 16),
		ctx: namespaces.WithNamespace(t.Context(), "k8s.io"),
		store: &restore.Store{
			Containers:  metadata.NewContainerStore(db),
			Leases:      metadata.NewLeaseManager(db),
			Transact:    db.Update,
			Snapshotter: func(string) snapshots.Snapshotter { return nil },
			Dirs:        restore.Dirs{Root: filepath.Join(root, "root"), State: filepath.Join(root, "state")},
			Bundles:     filepath.Join(root, "bundles"),
			Logs:        restore.LogKeeper{Dir: filepath.Join(root, "failed"), Max: 5},
			Limits:      checkpoint.DefaultLimits(),
			Guard:       "/bin/true",
		},
	}
	w.inner.root, w.inner.verdict = w.store.Dirs.Root, `{"released":true,"inspected":true}`
	w.tasks = New(w.inner)
	return w
}

func (w *world) bind() *world {
	w.t.Helper()
	check(w.t, w.tasks.Bind(w.ctx, w.store, w.oom))
	return w
}

func jsonAny(url, value string) *anypb.Any { return &anypb.Any{TypeUrl: url, Value: []byte(value)} }

// container makes an ordinary container.
func (w *world) container(id string, options *anypb.Any) {
	w.t.Helper()
	c := containers.Container{ID: id, Spec: jsonAny("spec", "{}"),
		Runtime: containers.RuntimeInfo{Name: restore.RuntimeRunc}}
	if options != nil {
		c.Runtime.Options = options
	}
	_, err := w.store.Containers.Create(w.ctx, c)
	check(w.t, err)
}

// restored makes a container with a record and an unpacked archive.
func (w *world) restored(id string, options *anypb.Any) *restore.Record {
	w.t.Helper()
	w.container(id, options)
	r := &restore.Record{ID: restore.NewID(), Image: "/archives/" + id + ".tar"}
	check(w.t, w.store.Attach(w.ctx, id, r, func(*containers.Container) error { return nil }))
	for name, content := range map[string]string{
		"config.dump": `{"id":"c1","name":"c","rootfsImageRef":"registry.example/base@sha256:` +
			strings.Repeat("a", 64) + `"}`,
		"spec.dump":                   `{"process":{},"root":{"path":"rootfs"},"linux":{}}`,
		"checkpoint/inventory.img":    "inventory",
		"checkpoint/files.img":        criutest.Image("FILES"),
		"checkpoint/descriptors.json": `[]`,
	} {
		file := filepath.Join(w.store.Dirs.Archive(r.ID), name)
		check(w.t, errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o600)))
	}
	bundle := filepath.Join(w.store.Bundles, id)
	check(w.t, os.MkdirAll(bundle, 0o700))
	check(w.t, os.WriteFile(filepath.Join(bundle, "config.json"),
		[]byte(`{"process":{},"root":{"path":"rootfs"},"linux":{}}`), 0o600))
	check(w.t, w.store.Dirs.Make(r.ID))
	_, err := w.store.WriteConfig(r, &specs.Spec{Linux: &specs.Linux{}})
	check(w.t, err)
	return r
}

// extension replaces an extension of the container.
func (w *world) extension(id, key, value string) {
	w.t.Helper()
	c, err := w.store.Containers.Get(w.ctx, id)
	check(w.t, err)
	if c.Extensions == nil {
		c.Extensions = map[string]typeurl.Any{}
	}
	c.Extensions[key] = jsonAny("x", value)
	_, err = w.store.Containers.Update(w.ctx, c, "extensions")
	check(w.t, err)
}

func (w *world) record(id string) *restore.Record {
	w.t.Helper()
	_, r, err := w.store.Get(w.ctx, id)
	check(w.t, err)
	return r
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	return err == nil
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
