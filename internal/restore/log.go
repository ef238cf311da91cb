package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/regular"
)

// CopyLog puts what the checkpointed container had logged at the new
// container's log path, before its first new line. What is already in the file stays.
// The returned function takes it back; it is never nil.
//
// The path is the request's, the content the checkpoint's, in the CRI log format. No link is followed
// at the last element of the path.
func CopyLog(ctx context.Context, c *checkpoint.Checkpoint, path string) (undo func() error, err error) {
	nothing := func() error { return nil }
	if path == "" {
		return nothing, nil
	}
	src, err := c.OpenLog()
	if errdefs.IsNotFound(err) {
		return nothing, nil
	}
	if err != nil {
		return nothing, err
	}
	defer src.Close()
	// Directory and modes are those that containerd makes when a container starts (internal/cri/server: openLogFile).
	made, err := makeDirs(filepath.Dir(path))
	removeDirs := func() {
		for _, dir := range slices.Backward(made) {
			_ = os.Remove(dir) // only if nothing else has come into it
		}
	}
	if err != nil {
		removeDirs()
		return nothing, fmt.Errorf("container log: %w", err)
	}
	dst, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
	if err != nil {
		removeDirs()
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EISDIR) {
			err = fmt.Errorf("%w: it is no regular file: %w", err, errdefs.ErrInvalidArgument)
		}
		return nothing, fmt.Errorf("container log: %w", err)
	}
	before, err := dst.Stat()
	if err == nil && !before.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: %w", path, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nothing, errors.Join(fmt.Errorf("container log: %w", err), dst.Close())
	}
	undo = func() error {
		if before.Size() == 0 {
			defer removeDirs()
			return os.Remove(path)
		}
		return truncate(path, before)
	}
	in := &lastByte{r: regular.Reader(ctx, criLog(src, c.Metadata.CheckpointedAt, c.Limits().LogBytes))}
	_, err = io.Copy(dst, in)
	if err == nil && in.read && in.last != '\n' {
		// The log was copied while its last line was being written. The next line is one of its own.
		_, err = dst.WriteString("\n")
	}
	if err != nil {
		err = fmt.Errorf("copy container log to %s: %w", filepath.Base(path), err)
		return nothing, errors.Join(err, dst.Close(), undo())
	}
	if err := dst.Close(); err != nil {
		return nothing, errors.Join(fmt.Errorf("container log: %w", err), undo())
	}
	return undo, nil
}

// truncate makes the file as long as it was, if the path still is the file's: whoever may write to the node's logs can
// give the path to another.
func truncate(path string, before os.FileInfo) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil || !os.SameFile(before, now) {
		return err
	}
	return f.Truncate(before.Size())
}

// makeDirs is os.MkdirAll that tells which directories it has made, a parent
// before what is in it.
func makeDirs(dir string) (made []string, err error) {
	for up := dir; ; up = filepath.Dir(up) {
		if _, err := os.Stat(up); !errors.Is(err, os.ErrNotExist) {
			break // MkdirAll says what is wrong with it
		}
		made = append(made, up)
	}
	slices.Reverse(made)
	return made, os.MkdirAll(dir, 0o755)
}

// lastByte knows the last byte that was read, if there was one.
type lastByte struct {
	r    io.Reader
	read bool
	last byte
}

func (r *lastByte) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.read, r.last = true, p[n-1]
	}
	return n, err
}
