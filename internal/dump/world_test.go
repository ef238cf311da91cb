package dump

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// fakeTasks is a task service with one container, whose calls it writes down.
type fakeTasks struct {
	api.TasksClient
	status    tasktypes.Status
	thawed    bool // though the status says paused
	dead      bool // all processes, though the status says paused
	calls     []string
	fail      map[string]error
	during    func()        // called while CRIU dumps
	hung      chan struct{} // CRIU waits for the thaw
	criuLog   string
	callsDone []bool // whether the context of the call had ended
}

func (f *fakeTasks) call(ctx context.Context, name string) error {
	f.calls = append(f.calls, name)
	f.callsDone = append(f.callsDone, ctx.Err() != nil)
	return errgrpc.ToGRPC(f.fail[name])
}

func (f *fakeTasks) Get(context.Context, *api.GetRequest, ...grpc.CallOption) (*api.GetResponse, error) {
	if err := f.fail["get"]; err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.GetResponse{Process: &tasktypes.Process{Status: f.status}}, nil
}

func (f *fakeTasks) Pause(ctx context.Context, _ *api.PauseTaskRequest, _ ...grpc.CallOption) (*emptypb.Empty, error) {
	if err := f.call(ctx, "pause"); err != nil {
		return nil, err
	}
	f.status = tasktypes.Status_PAUSED
	return &emptypb.Empty{}, nil
}

// freeze freezes what CRIU has thawed.
func (f *fakeTasks) freeze(ctx context.Context, container string) error {
	if container != "c" {
		return fmt.Errorf("container %s", container)
	}
	if f.dead {
		return fmt.Errorf("no process: %w", errdefs.ErrNotFound)
	}
	f.thawed = false
	return f.call(ctx, "freeze")
}

// thaw thaws the cgroup, of which the shim knows nothing.
func (f *fakeTasks) thaw(_ context.Context, container string) error {
	if container != "c" || f.dead {
		return fmt.Errorf("container %s: %w", container, errdefs.ErrNotFound)
	}
	f.thawed = true
	if f.hung != nil {
		close(f.hung)
		f.hung = nil
	}
	return nil
}

func (f *fakeTasks) Resume(ctx context.Context, _ *api.ResumeTaskRequest, _ ...grpc.CallOption) (*emptypb.Empty, error) {
	if err := f.call(ctx, "resume"); err != nil {
		return nil, err
	}
	if f.thawed {
		return nil, errgrpc.ToGRPC(errors.New("OCI runtime resume failed: container not paused"))
	}
	if f.status != tasktypes.Status_PAUSED {
		return nil, errors.New("cannot resume a running process")
	}
	f.status = tasktypes.Status_RUNNING
	return &emptypb.Empty{}, nil
}

func (f *fakeTasks) Checkpoint(ctx context.Context, r *api.CheckpointTaskRequest, _ ...grpc.CallOption) (*api.CheckpointTaskResponse, error) {
	var o options.CheckpointOptions
	if err := typeurl.UnmarshalTo(r.Options, &o); err != nil {
		return nil, err
	}
	if o.Exit {
		return nil, errors.New("the container would end")
	}
	if !o.FileLocks || !o.OpenTcp {
		return nil, errors.New("a container with file locks and connections could not be checkpointed")
	}
	if err := os.WriteFile(filepath.Join(o.WorkPath, "dump.log"), []byte(f.criuLog), 0o600); err != nil {
		return nil, err
	}
	if f.during != nil {
		f.during()
	}
	if err := f.call(ctx, "checkpoint"); err != nil {
		return nil, err
	}
	return &api.CheckpointTaskResponse{}, os.WriteFile(filepath.Join(o.ImagePath, "inventory.img"), nil, 0o600)
}

// overlay is a snapshotter that has only one overlay.
type overlay struct {
	snapshots.Snapshotter
	upper string
}

func (o overlay) Mounts(context.Context, string) ([]mount.Mount, error) {
	return []mount.Mount{{Type: "overlay", Options: []string{"upperdir=" + o.upper}}}, nil
}

type world struct {
	ctx   context.Context
	tasks *fakeTasks
	store *Store
	dir   string
	db    *bbolt.DB
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	db, err := bbolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	mdb := metadata.NewDB(db, nil, nil)
	if err := errors.Join(mdb.Init(t.Context()), os.Mkdir(filepath.Join(dir, "upper"), 0o755), os.Mkdir(filepath.Join(dir, "out"), 0o755)); err != nil {
		t.Fatal(err)
	}
	w := &world{ctx: namespaces.WithNamespace(t.Context(), "k8s.io"), tasks: &fakeTasks{status: tasktypes.Status_RUNNING, fail: map[string]error{}}, dir: dir, db: db}
	w.store = &Store{
		Tasks: w.tasks, Leases: metadata.NewLeaseManager(mdb), Transact: mdb.Update, Freeze: w.tasks.freeze, Thaw: w.tasks.thaw, State: filepath.Join(dir, "state"),
		Frozen:      func(context.Context, string) (bool, error) { return !w.tasks.thawed, nil },
		Snapshotter: func(string) snapshots.Snapshotter { return overlay{upper: filepath.Join(dir, "upper")} },
	}
	return w
}

func (w *world) out() string { return filepath.Join(w.dir, "out") }

// take takes a checkpoint and gives it back.
func (w *world) take(ctx context.Context) (still bool, err error) {
	d, ctx, err := w.store.Begin(ctx, &containers.Container{ID: "c"}, w.out(), "c.tar")
	if err != nil {
		return false, err
	}
	defer d.End(ctx)
	dir := filepath.Join(d.Dir(), "checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return false, err
	}
	return still, d.Take(ctx, dir, func() { still = w.tasks.status == tasktypes.Status_PAUSED })
}

// requireNothing fails the test if something is left, or the container is frozen.
func (w *world) requireNothing(t *testing.T) {
	t.Helper()
	left, err := w.store.Leases.List(w.ctx)
	if err != nil || len(left) > 0 {
		t.Errorf("leases %v, %v", left, err)
	}
	for _, dir := range []string{w.out(), w.store.State} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) || len(entries) > 0 {
			t.Errorf("%s: %v, %v", dir, entries, err)
		}
	}
	if len(w.store.busy) > 0 {
		t.Errorf("busy: %v", w.store.busy)
	}
	if w.tasks.status == tasktypes.Status_PAUSED {
		t.Error("the container is frozen")
	}
}
