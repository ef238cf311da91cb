package dump

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"github.com/klauspost/compress/gzip"

	"github.com/cri-restore/cri-restore/internal/cgroup"
	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/recovery"
)

const (
	// maxLines and maxBytes bound what of CRIU's log becomes part of an error.
	maxLines, maxBytes = 5, 2 << 10
	// orphanTimeout is the patience with a CRIU that goes on after its runc was killed: it writes all memory.
	orphanTimeout = 10 * time.Minute
	// resumeTries is how often the end of the freeze is tried.
	resumeTries = 3
	// notPaused is in the error of a runc that finds nothing to resume (runc: libcontainer/error.go, ErrNotPaused).
	notPaused = "container not paused"
)

// Take writes the images of the container's processes, CRIU's log and statistics, and the changes
// of its root file system into dir, an existing directory of the caller. The container is frozen until both were read,
// so that they fit to each other. still is called at the end of that time.
//
// CRIU cannot be stopped half way without harm to the processes, so it is waited for even if the context ends.
// Errors: the context's; errdefs.ErrFailedPrecondition and CRIU's words if it cannot dump the container, a [*PassingError] if it may be able
// to soon.
func (d *Dump) Take(ctx context.Context, dir string, still func()) (retErr error) {
	if err := checkMountPoints(d.container, d.rootfs()); err != nil {
		return err
	}
	if err := d.checkProcesses(); err != nil {
		return err
	}
	changes, err := d.changes(ctx)
	if err != nil {
		return fmt.Errorf("root file system of container %s: %w", d.container.ID, err)
	}
	// Not compressed while the container waits. It has no name, and mostly never reaches the disk.
	spool, err := os.CreateTemp(d.dir, "diff-")
	if err != nil {
		return err
	}
	defer spool.Close()
	if err := os.Remove(spool.Name()); err != nil {
		return err
	}
	images := filepath.Join(dir, metadata.CheckpointDirectory)
	if err := os.Mkdir(images, 0o700); err != nil {
		return err
	}
	if err := d.frozen(ctx, func() error {
		// One may have been stopped since. Now nothing changes any more.
		if err := d.checkProcesses(); err != nil {
			return err
		}
		began := time.Now()
		stop := d.watch(ctx)
		err := d.criu(ctx, images, dir)
		letGo := stop()
		d.Times.CRIU = time.Since(began)
		if err != nil {
			return err
		}
		if letGo {
			return errLetGo
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		began = time.Now()
		if err := changes(ctx, spool); err != nil {
			return fmt.Errorf("changes of the root file system of container %s: %w", d.container.ID, err)
		}
		if err := d.takeShared(ctx, dir, images); err != nil {
			return err
		}
		d.Times.Diff = time.Since(began)
		still()
		return nil
	}); err != nil {
		return err
	}
	return compress(ctx, spool, filepath.Join(dir, metadata.RootFsDiffTar))
}

// checkProcesses refuses what CRIU cannot take hold of.
func (d *Dump) checkProcesses() error {
	pids, err := cgroup.Processes(d.container.ID)
	if err != nil {
		return fmt.Errorf("processes of container %s: %w", d.container.ID, err)
	}
	return checkStopped(pids)
}

// frozen calls f while the container is frozen. The container runs on in any case; CRIU leaves a container that was
// frozen before it came as it was.
func (d *Dump) frozen(ctx context.Context, f func() error) (retErr error) {
	if !d.freezes {
		return f()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	began := time.Now()
	defer func() {
		if retErr != nil {
			// A runc that was killed does not end CRIU, which would freeze the container again at its own end.
			stop := d.watch(ctx)
			retErr = errors.Join(retErr, waitForAll(d.dirs(), time.Now().Add(orphanTimeout)))
			stop()
		}
		if err := d.store.resume(ctx, d.container.ID); err != nil {
			retErr = errors.Join(retErr, err)
			// The end tries again. If that fails, too, the record stays for containerd's next start.
			d.add(func(ctx context.Context) error { return d.store.resume(ctx, d.container.ID) })
		}
		d.Times.Frozen = time.Since(began)
	}()
	// Not cut short: a freeze that was given up half way would be nobody's to end.
	if _, err := d.store.Tasks.Pause(context.WithoutCancel(ctx), &api.PauseTaskRequest{ContainerID: d.container.ID}); err != nil {
		return fmt.Errorf("freeze container %s: %w", d.container.ID, errgrpc.ToNative(err))
	}
	return recovery.Do(ctx, "checkpoint", f)
}

// resume lets a container run on that may be frozen. One that has ended meanwhile needs nothing.
func (s *Store) resume(ctx context.Context, container string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	var errs []error
	for range resumeTries {
		_, rerr := s.Tasks.Resume(ctx, &api.ResumeTaskRequest{ContainerID: container})
		if rerr == nil {
			return nil
		}
		errs = append(errs, errgrpc.ToNative(rerr))
		resp, err := s.Tasks.Get(ctx, &api.GetRequest{ContainerID: container})
		if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			continue
		}
		if status := resp.GetProcess().GetStatus(); status != tasktypes.Status_PAUSED && status != tasktypes.Status_PAUSING {
			return nil
		}
		// CRIU thaws while it works. If it was killed then, the shim knows the container as frozen and runc as running, and only
		// what both know as frozen can be resumed.
		if strings.Contains(rerr.Error(), notPaused) {
			err := s.Freeze(ctx, container)
			if errdefs.IsNotFound(err) {
				return nil // all its processes have ended, which the shim has not seen yet
			}
			errs = append(errs, err)
		}
	}
	err := fmt.Errorf("container %s is still frozen: resume it with ctr, or stop it: %w", container, errors.Join(errs...))
	log.G(ctx).WithError(err).Error("failed to let a container run on after its checkpoint")
	return err
}

// criu lets CRIU dump the processes: the shim calls runc, and runc CRIU.
func (d *Dump) criu(ctx context.Context, images, work string) error {
	// What becomes of connections is said when the container is restored. Here they go on as they were.
	o, err := typeurl.MarshalAnyToProto(&options.CheckpointOptions{ImagePath: images, WorkPath: work, FileLocks: true, OpenTcp: true})
	if err != nil {
		return err
	}
	err, lost := cgroup.KeepOptions(func() error {
		_, err := d.store.Tasks.Checkpoint(context.WithoutCancel(ctx), &api.CheckpointTaskRequest{ContainerID: d.container.ID, Options: o})
		return err
	})
	if lost != nil {
		log.G(ctx).WithError(lost).WithField("container", d.container.ID).Warn("a checkpoint may have taken mount options of cgroup v2 from the node")
	}
	if err == nil {
		return nil
	}
	err = errgrpc.ToNative(err)
	lines, lerr := criu.ErrorLines(filepath.Join(work, "dump.log"), maxLines, maxBytes)
	if lerr == nil && len(lines) > 0 {
		// What the shim says names a log that is gone by the time anybody reads it.
		text := strings.Join(lines, "; ")
		if r := remedy(lines); r != "" {
			text += ": " + r
		}
		err = fmt.Errorf("criu: %s: %w", text, errdefs.ErrFailedPrecondition)
	}
	return passing(fmt.Errorf("checkpointing container %q failed: %w", d.container.ID, err), lines)
}

// compress writes the spooled tar to a new file as the gzip that containerd's checkpoints have.
func compress(ctx context.Context, spool *os.File, name string) (err error) {
	if _, err := spool.Seek(0, 0); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if err := copyWith(ctx, z, spool); err != nil {
		return err
	}
	return z.Close()
}
