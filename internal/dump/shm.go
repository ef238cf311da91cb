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

// Shared is the memory that containers of a pod have in common. CRIU dumps of System V IPC all that is there, and of
// /dev/shm only what was deleted.
type Shared struct {
	// Alone says whether nobody else can have made what is there. It is asked once, while the container is frozen.
	Alone func(context.Context) (bool, error)
	// Shm is the directory of the pod's /dev/shm, empty if the container has another one there.
	Shm string
	// Limit is how many bytes of its files a restore on this node would take.
	Limit int64
}

// Shares says what the container has in common with its pod.
func (d *Dump) Shares(s Shared) { d.shared = &s }

// takeShared makes what is shared a part of the checkpoint if it is all the container's: the files of /dev/shm by the
// name that Podman gives them. Otherwise it takes what CRIU has dumped of others out of the images.
func (d *Dump) takeShared(ctx context.Context, dir, images string) error {
	if d.shared == nil {
		return nil
	}
	alone, err := d.shared.Alone(ctx)
	if err != nil {
		return err
	}
	if !alone {
		if err := dropSegments(ctx, images); err != nil {
			return fmt.Errorf("shared memory of other containers: %w", err)
		}
		return nil
	}
	if d.shared.Shm == "" {
		return nil
	}
	if err := d.writeShm(ctx, dir); err != nil {
		return fmt.Errorf("/dev/shm of container %s: %w", d.container.ID, err)
	}
	return nil
}

// writeShm writes the files of /dev/shm into the checkpoint's directory.
func (d *Dump) writeShm(ctx context.Context, dir string) (err error) {
	if empty, err := isEmpty(d.shared.Shm); err != nil || empty {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, metadata.DevShmCheckpointTar), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return changes.WriteTree(ctx, &limited{w: f, left: d.shared.Limit}, d.shared.Shm)
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
