package dump

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// The labels of the lease that is the record of a checkpoint that is being taken. The lease also
// protects what the checkpoint makes in containerd's stores.
const (
	// LabelID is the label with the ID of the checkpoint.
	LabelID = "org.criu.restore/checkpoint"
	// labelContainer is the label with the ID of the container.
	labelContainer = LabelID + "-container"
	// labelDir is the label with the directory in which the checkpoint is made.
	labelDir = LabelID + "-directory"
	// labelFreezes is "true" if the container ran, so that it is this checkpoint that freezes it.
	labelFreezes = LabelID + "-freezes"
)

const (
	// leaseTime is how long the lease lasts if containerd dies and does not come back to find it.
	leaseTime = 24 * time.Hour
	// cleanupTimeout bounds each step of the clean-up, whose caller may be gone.
	cleanupTimeout = 30 * time.Second
)

// Store takes checkpoints.
type Store struct {
	// Tasks is containerd's task service.
	Tasks api.TasksClient
	// Leases is containerd's lease manager, and Transact a transaction of the metadata store that has the leases.
	Leases   leases.Manager
	Transact func(func(*bbolt.Tx) error) error
	// Freeze freezes a container's cgroup. The error is of class errdefs.ErrNotFound if no process is in it.
	Freeze func(ctx context.Context, container string) error
	// Thaw is its opposite, and Frozen asks. Neither needs the shim, which answers nothing while it runs a checkpoint.
	Thaw   func(ctx context.Context, container string) error
	Frozen func(ctx context.Context, container string) (bool, error)
	// Snapshotter returns a snapshotter by name, nil if there is none.
	Snapshotter func(name string) snapshots.Snapshotter
	// Bundles is the directory with the OCI bundles of the namespace's tasks.
	Bundles string
	// State is the plugin's directory for what may be lost at a reboot, as mounts are.
	State string

	mu   sync.Mutex
	busy map[string]bool // by container
}

// Dump is one checkpoint that is being taken.
type Dump struct {
	// ID names the checkpoint.
	ID string
	// Times says how long each step took.
	Times Times

	store     *Store
	container *containers.Container
	lease     leases.Lease
	dir       string
	freezes   bool
	shared    *Shared
	undo      []func(context.Context) error
}

// Begin makes room for a checkpoint of the container: a private directory in parent, which is
// where the checkpoint should stay, named after name. What is made in containerd's stores with the
// returned context is protected until End, which has to be called.
//
// The caller holds the container, see Hold. Errors: errdefs.ErrFailedPrecondition if its process does not run, errdefs.ErrNotFound if there is no task or no parent, errdefs.ErrInvalidArgument
// for a path that is too long.
func (s *Store) Begin(ctx context.Context, c *containers.Container, parent, name string) (_ *Dump, _ context.Context, retErr error) {
	d := &Dump{ID: uuid.NewString(), store: s, container: c}
	defer func() {
		if retErr != nil {
			d.End(ctx)
		}
	}()
	resp, err := s.Tasks.Get(ctx, &api.GetRequest{ContainerID: c.ID})
	if err != nil {
		return nil, nil, fmt.Errorf("task of container %s: %w", c.ID, errgrpc.ToNative(err))
	}
	switch status := resp.GetProcess().GetStatus(); status {
	case tasktypes.Status_RUNNING:
		d.freezes = true
	case tasktypes.Status_PAUSED: // by somebody else, who will let it run on
	default:
		return nil, nil, fmt.Errorf("the process of container %s is %s, only a running one can be checkpointed: %w", c.ID, status, errdefs.ErrFailedPrecondition)
	}
	d.dir = filepath.Join(parent, dirName(name, d.ID))
	d.lease, err = s.Leases.Create(ctx, leases.WithID("cri-checkpoint-"+d.ID), leases.WithExpiration(leaseTime), leases.WithLabels(map[string]string{
		LabelID: d.ID, labelContainer: c.ID, labelDir: d.dir, labelFreezes: strconv.FormatBool(d.freezes),
	}))
	if err != nil {
		return nil, nil, fmt.Errorf("record checkpoint of container %s in %s: %w", c.ID, parent, err)
	}
	d.add(func(ctx context.Context) error {
		if err := s.Leases.Delete(ctx, d.lease); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("lease %s: %w", d.lease.ID, err)
		}
		return nil
	})
	err = os.Mkdir(d.dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("checkpoint directory %s does not exist: create it, or choose another: %w: %w", parent, err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make room for the checkpoint: %w", err)
	}
	d.add(func(context.Context) error { return removeDir(d.dir) })
	if err := os.MkdirAll(s.mounts(d.ID), 0o700); err != nil {
		return nil, nil, fmt.Errorf("make room for the checkpoint's mounts: %w", err)
	}
	d.add(func(context.Context) error { return removeDir(s.mounts(d.ID)) })
	return d, leases.WithLease(ctx, d.lease.ID), nil
}

// dirs are the directories in which CRIU may work.
func (d *Dump) dirs() []string { return []string{d.store.mounts(d.ID), d.dir} }

// Dir is the private directory of the checkpoint. Whatever is still in it at the end is removed.
func (d *Dump) Dir() string { return d.dir }

// Mount returns a directory at which something can be mounted until the end.
func (d *Dump) Mount(name string) (string, error) {
	dir := filepath.Join(d.store.mounts(d.ID), name)
	return dir, os.MkdirAll(dir, 0o700)
}

// OnEnd makes the end call f, which gives back what somebody else has needed for the checkpoint.
func (d *Dump) OnEnd(f func(context.Context) error) { d.add(f) }

// End gives back what the checkpoint needed. An error is only told: the next start of containerd tries again.
func (d *Dump) End(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	// The record goes only when all that it tells of is gone.
	var failed bool
	for i := len(d.undo) - 1; i >= 0; i-- {
		if failed && i == leaseStep {
			continue
		}
		if err := d.undo[i](ctx); err != nil {
			failed = true
			log.G(ctx).WithError(err).WithField("container", d.container.ID).Error("failed to remove what a checkpoint had left, it stays until containerd starts again")
		}
	}
}

// leaseStep is the place of the lease among the steps to undo.
const leaseStep = 0

func (d *Dump) add(undo func(context.Context) error) { d.undo = append(d.undo, undo) }

func (s *Store) mounts(id string) string { return filepath.Join(s.State, "checkpoint-"+id) }

// Hold keeps other requests from checkpointing a container until it is released, from before its program is told to after
// it is told that the checkpoint is over. The error is of class errdefs.ErrAborted if another request holds it.
func (s *Store) Hold(container string) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[container] {
		return nil, fmt.Errorf("container %s is being checkpointed by another request: wait for its end and try again: %w",
			container, errdefs.ErrAborted)
	}
	if s.busy == nil {
		s.busy = map[string]bool{}
	}
	s.busy[container] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, container)
	}, nil
}

// dirName is hidden and says what it is for. Its end is the ID, by which it is known to be ours.
func dirName(name, id string) string {
	const room = unix.NAME_MAX - 40
	return "." + name[:min(len(name), room)] + "." + id
}
