package restore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.etcd.io/bbolt"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/mounts"
	"github.com/cri-restore/cri-restore/internal/origin"
	"github.com/cri-restore/cri-restore/internal/pageserver"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/runc"
	"github.com/cri-restore/cri-restore/internal/turn"
)

// Store keeps restores: their records in containerd's metadata, their mounts
// and directories on the node.
type Store struct {
	// Containers is containerd's container store.
	Containers containers.Store
	// Leases is containerd's lease manager, and Transact a transaction of the metadata store that has the leases.
	Leases   leases.Manager
	Transact func(func(*bbolt.Tx) error) error
	// Snapshotter returns a snapshotter by name, nil if there is none.
	Snapshotter func(name string) snapshots.Snapshotter
	// Dirs are the plugin's directories.
	Dirs Dirs
	// Bundles is the directory with the OCI bundles of the namespace's tasks.
	Bundles string
	// Logs keeps CRIU's logs of failed restores.
	Logs LogKeeper
	// Limits bound what is read from a checkpoint.
	Limits checkpoint.Limits
	// CRIUConfig is the node's own CRIU configuration file for runc, empty for none.
	CRIUConfig string
	// Turns bounds how many restores work at a time.
	Turns *turn.Queue
	// Runc are the node's runc binaries, nil for any.
	Runc *runc.Binaries
	// Guard is the path of the program restore-guard.
	Guard string
	// Audit says that what the guard finds is only told.
	Audit bool
	// Pages are the programs for lazy restores, nil on a node that cannot do them.
	Pages *Pages

	// background is the removal of what earlier restores had left.
	background sync.WaitGroup
	// records is held from the reading of a record to its writing, see update.
	records sync.Mutex
}

// Get returns a container and its record. A container without one is answered
// with errdefs.ErrNotFound.
func (s *Store) Get(ctx context.Context, id string) (*containers.Container, *Record, error) {
	c, err := s.Containers.Get(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	r, err := Load(&c)
	return &c, r, err
}

// List returns the IDs of all containers that were or are to be restored. The
// label alone does not make one: containers inherit the labels of their images.
func (s *Store) List(ctx context.Context) ([]string, error) {
	cs, err := s.Containers.List(ctx, fmt.Sprintf("labels.%q", LabelID))
	if err != nil {
		return nil, fmt.Errorf("list restored containers: %w", err)
	}
	ids := make([]string, 0, len(cs))
	for _, c := range cs {
		if _, ok := c.Extensions[extensionRecord]; ok {
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}

// Unfinished reports whether the container is to be restored but has no record: containerd stopped between the
// two. Such a container would start from its base image and forget what it was.
func Unfinished(c *containers.Container) bool {
	if _, ok := c.Extensions[extensionRecord]; ok {
		return false
	}
	o := origin.Of(c)
	return o != nil && o.Fresh == ""
}

// Pending reports whether the container is still to be restored: nobody has tried
// yet. That a record cannot be read does not make it an ordinary container.
func Pending(c *containers.Container) bool {
	if _, ok := c.Extensions[extensionRecord]; !ok {
		return Unfinished(c)
	}
	r, err := Load(c)
	return err != nil || !r.Ended && !r.Draining
}

// ImageID returns the CRI's ID of the checkpoint image that a container was made from, whether it is restored or begins
// anew. It is empty for an ordinary container and for one from an archive.
func ImageID(c *containers.Container) string {
	if o := origin.Of(c); o != nil {
		return o.ImageID
	}
	r, err := Load(c) // of a plugin that noted no origin
	if err != nil {
		return ""
	}
	return r.ImageID
}

// Attach puts the record on the container, together with what else the change
// makes of it, in one write.
func (s *Store) Attach(ctx context.Context, id string, r *Record, change func(*containers.Container) error) error {
	c, err := s.Containers.Get(ctx, id)
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	if err := r.Attach(&c); err != nil {
		return err
	}
	if err := change(&c); err != nil {
		return err
	}
	if _, err := s.Containers.Update(ctx, c); err != nil {
		return fmt.Errorf("record restore on container %s: %w", id, err)
	}
	return nil
}

// End gives back what a restore needed only until it was tried: mounts, view, unpacked archive and
// work directory. The CRIU configuration stays for later checkpoints of the container.
func (s *Store) End(ctx context.Context, id string) error {
	_, r, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	err = errors.Join(s.detachLeftovers(id), s.release(ctx, r))
	if err != nil || r.Ended {
		return err
	}
	return s.update(ctx, id, func(r *Record) { r.Ended, r.Draining, r.Drained = true, false, false })
}

// update changes the record of a container, and nothing else of it: another request may change its spec meanwhile. The
// end of a lazy restore's memory, a command and a failure may be noted at the same time, and none may take back what
// the others have noted. All of them are of this process: the metadata store has no transaction for a client that
// reads, decides and writes.
func (s *Store) update(ctx context.Context, id string, change func(*Record)) error {
	s.records.Lock()
	defer s.records.Unlock()
	c, r, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	change(r)
	if err := r.Attach(c); err != nil {
		return err
	}
	if _, err := s.Containers.Update(ctx, *c, "labels", "extensions"); err != nil {
		return fmt.Errorf("restore record of container %s: %w", id, err)
	}
	return nil
}

// release removes view, archive, replaced images and work directory of a restore.
func (s *Store) release(ctx context.Context, r *Record) error {
	// Before what it serves from is removed.
	errs := []error{pageserver.Stop(ctx, s.Dirs.Work(r.ID))}
	for _, dir := range []string{filepath.Join(s.Dirs.State, r.ID), s.Dirs.Archive(r.ID), s.Dirs.Work(r.ID),
		s.Dirs.Replaced(r.ID), s.Dirs.Guard(r.ID)} {
		errs = append(errs, mounts.Remove(dir))
	}
	return errors.Join(append(errs, s.removeView(ctx, r))...)
}

// Detach unmounts what a restore may have left below directories that go with
// the task, before the task is deleted.
func (s *Store) Detach(id string, r *Record) error {
	return errors.Join(s.detachLeftovers(id), mounts.Below(s.Dirs.Work(r.ID)))
}

// Remove removes everything of a restore whose container is gone.
func (s *Store) Remove(ctx context.Context, r *Record) error {
	return errors.Join(pageserver.Stop(ctx, s.Dirs.Work(r.ID)), s.Dirs.Remove(r.ID), s.removeView(ctx, r))
}

// ReleaseView gives the view of a checkpoint image back. The record has none then.
func (s *Store) ReleaseView(ctx context.Context, r *Record) error {
	if err := mounts.Below(s.Dirs.View(r.ID)); err != nil {
		return err
	}
	if err := s.removeView(ctx, r); err != nil {
		return err
	}
	r.Snapshotter, r.SnapshotKey = "", ""
	return nil
}

func (s *Store) removeView(ctx context.Context, r *Record) error {
	if r.SnapshotKey == "" {
		return nil
	}
	sn := s.Snapshotter(r.Snapshotter)
	if sn == nil {
		return fmt.Errorf("snapshotter %q of restore %s: %w", r.Snapshotter, r.ID, errdefs.ErrNotFound)
	}
	if err := sn.Remove(ctx, r.SnapshotKey); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("view of restore %s: %w", r.ID, err)
	}
	return nil
}

// detachLeftovers unmounts what a killed runc or CRIU leaves below directories
// that are deleted with the task: binds of the root file system below runc's state
// directory, binds of volumes below the bundle's root file system, and cgroups below the
// work directory. Deleting those directories would otherwise delete what is mounted there.
// The bundle's root file system itself is the shim's to unmount.
func (s *Store) detachLeftovers(id string) error {
	below, err := filepath.EvalSymlinks(filepath.Join(s.Bundles, id, "rootfs")) // as the kernel lists it
	if err != nil {
		below = filepath.Join(s.Bundles, id, "rootfs")
	}
	below += "/"
	criuRoot := "/" + id + "/criu-root" // runc: libcontainer/criu_linux.go, Restore
	return mounts.Where(func(mountpoint string) bool {
		return strings.HasPrefix(mountpoint, below) || strings.HasSuffix(mountpoint, criuRoot) ||
			strings.Contains(mountpoint, criuRoot+"/")
	})
}

// Failed explains why the task of a restored container did not start.
func (s *Store) Failed(ctx context.Context, id string, r *Record, err error) error {
	return fmt.Errorf("checkpoint %s: %w%s", r.Image, s.Logs.Explain(ctx, id, s.Dirs.Work(r.ID), err),
		withoutRoom(s.Dirs.Root, s.Dirs.State))
}

// maxFailure bounds what a record keeps of a failure, in bytes.
const maxFailure = 1024

// NoteFailure writes into the record why the restore failed, for the container that comes after this one.
func (s *Store) NoteFailure(ctx context.Context, id string, failure error) error {
	text := failure.Error()
	text = strings.ToValidUTF8(text[:min(len(text), maxFailure)], "")
	return s.update(ctx, id, func(r *Record) { r.Failure = text })
}

// criuOptions are the options that CRIU gets for every restore. They come after
// the node's own, because the last one wins.
func (s *Store) criuOptions(r *Record, spec *specs.Spec) ([]criu.Option, error) {
	options, err := s.cgroupOptions(r, spec)
	if err != nil {
		return nil, err
	}
	// Every checkpoint of ours has them, and without the option CRIU leaves them out in silence (criu/file-lock.c,
	// prepare_file_locks).
	options = append(options, criu.Option{Name: "file-locks"})
	switch policy.TCP(r.TCP) {
	case policy.CloseTCP:
		options = append(options, criu.Option{Name: "tcp-close"})
	case policy.RefuseTCP: // there are none
	case policy.LocalTCP, policy.RestoreTCP: // of local the images have no others
		options = append(options, criu.Option{Name: "tcp-established"})
	}
	return options, nil
}
