package dump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/changes"
)

// shm is a pod's /dev/shm.
type shm struct {
	dir   string
	limit int64
	alone func(context.Context) (bool, error)
}

// WithShm makes the files of the pod's /dev/shm, which are in dir, a part of the checkpoint, by the name that Podman
// gives them. They belong to all containers of the pod: alone is asked while the container is frozen, and says whether
// no other one can have any there. More than limit bytes no restore on this node would take.
func (d *Dump) WithShm(dir string, limit int64, alone func(context.Context) (bool, error)) {
	d.shm = &shm{dir: dir, limit: limit, alone: alone}
}

// writeShm writes the files of /dev/shm into the checkpoint's directory. CRIU has those only that were deleted.
func (d *Dump) writeShm(ctx context.Context, dir string) (err error) {
	if d.shm == nil {
		return nil
	}
	if alone, err := d.shm.alone(ctx); err != nil || !alone {
		return err
	}
	if empty, err := isEmpty(d.shm.dir); err != nil || empty {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, metadata.DevShmCheckpointTar), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := changes.WriteTree(ctx, &limited{w: f, left: d.shm.limit}, d.shm.dir); err != nil {
		return fmt.Errorf("/dev/shm of container %s: %w", d.container.ID, err)
	}
	return nil
}

func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// limited writes up to a number of bytes.
type limited struct {
	w    io.Writer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, fmt.Errorf("it has more than a restore would take: raise max_diff_size, "+
			"or let the container have less in it: %w", errdefs.ErrResourceExhausted)
	}
	return l.w.Write(p)
}
