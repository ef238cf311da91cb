package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/regular"
	"github.com/cri-restore/cri-restore/internal/upstream"
)

// describe writes what the checkpoint says of the container, as containerd's own does.
func (n *Node) describe(c *containers.Container, status *runtime.ContainerStatus, dir string) error {
	name, err := upstream.NameOf(c)
	if err != nil {
		return err
	}
	for _, doc := range []struct {
		file string
		v    any
	}{
		{metadata.ConfigDumpFile, &metadata.ContainerConfig{
			ID:              c.ID,
			Name:            name,
			RootfsImage:     status.GetImage().GetImage(),
			RootfsImageName: status.GetImage().GetImage(),
			RootfsImageRef:  status.GetImageRef(),
			OCIRuntime:      c.Runtime.Name,
			CreatedTime:     c.CreatedAt,
			CheckpointedAt:  time.Now(),
		}},
		{metadata.StatusDumpFile, status},
		{metadata.SpecDumpFile, json.RawMessage(c.Spec.GetValue())},
	} {
		data, err := json.Marshal(doc.v)
		if err != nil {
			return fmt.Errorf("%s: %w", doc.file, err)
		}
		if err := os.WriteFile(filepath.Join(dir, doc.file), data, 0o600); err != nil {
			return err
		}
	}
	// The CRI plugin's own record of the container's state, for checkpointctl.
	src, _, err := openRegular(upstream.StatusFile(n.Restores.Dirs.Root, c.ID))
	if err != nil {
		return err
	}
	defer src.Close()
	return writeFrom(filepath.Join(dir, metadata.StatusFile), src)
}

// containerLog is the log of a container, up to the moment of its checkpoint.
type containerLog struct {
	f    *os.File // nil if there is none
	size int64
}

// openLog opens the log before the checkpoint, because it may be rotated meanwhile.
func openLog(name string) (*containerLog, error) {
	f, size, err := openRegular(name)
	if name == "" || errors.Is(err, fs.ErrNotExist) {
		return &containerLog{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("container log: %w: put the log's own file there, or remove what is there to checkpoint "+
			"without a log", err)
	}
	return &containerLog{f: f, size: size}, nil
}

// mark is called while the container is frozen: what it writes later is not part of the checkpoint. If
// that cannot be told, the log ends where it did before.
func (l *containerLog) mark() {
	if l.f == nil {
		return
	}
	if fi, err := l.f.Stat(); err == nil {
		l.size = fi.Size()
	}
}

func (l *containerLog) copy(ctx context.Context, name string) error {
	if l.f == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return writeFrom(name, io.LimitReader(l.f, l.size))
}

func (l *containerLog) close() {
	if l.f != nil {
		l.f.Close()
	}
}

// openRegular opens a regular file and nothing else.
func openRegular(name string) (*os.File, int64, error) {
	f, size, err := regular.Open(name)
	if !errdefs.IsInvalidArgument(err) {
		return f, size, err
	}
	what := "is no regular file"
	if fi, err := os.Lstat(name); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		what = "is a symbolic link, which is not followed"
	} else if err == nil {
		what = fmt.Sprintf("is %s and no regular file", fi.Mode().Type())
	}
	return nil, 0, fmt.Errorf("%s %s: %w", name, what, errdefs.ErrFailedPrecondition)
}

func writeFrom(name string, src io.Reader) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.Copy(f, src)
	return err
}
