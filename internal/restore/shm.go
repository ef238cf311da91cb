package restore

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

const (
	shmPath = "/dev/shm"
	nodeShm = "/dev/shm"
)

// HasShm says whether the checkpoint holds files of /dev/shm. Podman saves it; in a pod it belongs to all containers.
func HasShm(ctx context.Context, c *checkpoint.Checkpoint) (bool, error) {
	diff, err := c.OpenShm(ctx)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer diff.Close()
	for r := tar.NewReader(diff); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("%s: %w", diff.Name(), diff.Explain(err))
		}
		if path.Clean("/"+h.Name) != "/" {
			return true, nil
		}
	}
}

// FillShm brings the checkpoint's files of /dev/shm into the pod's, which the spec says where to find. The caller knows
// that no other container of the pod uses it. Files that are there already, from an earlier life of the
// container, are replaced. The returned function takes away what was not there before; it is never nil.
//
// The error is of class errdefs.ErrFailedPrecondition if the pod has no memory of its own there, or too little, and
// errdefs.ErrPermissionDenied for symbolic links to procfs.
func FillShm(ctx context.Context, c *checkpoint.Checkpoint, spec *specs.Spec, l checkpoint.Limits) (undo func() error,
	err error) {
	nothing := func() error { return nil }
	dir, err := podShm(spec)
	if err != nil {
		return nothing, err
	}
	before, err := shmNames(dir)
	if err != nil {
		return nothing, err
	}
	undo = func() error { return removeNew(dir, before) }
	diff, err := c.OpenShm(ctx)
	if err != nil {
		return nothing, err
	}
	defer diff.Close()
	// Who else has it is known, but not who has it by the time of the last file.
	view, done, err := unfollowed(dir)
	if err != nil {
		return nothing, err
	}
	err = errors.Join(applyDiff(ctx, view, diff, l.Entries, shmEntry), done())
	if err != nil {
		if errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("the pod's /dev/shm is smaller than what the container had in it: %w: %w", err,
				errdefs.ErrFailedPrecondition)
		}
		return nothing, errors.Join(err, undo())
	}
	return undo, nil
}

// shmEntry refuses symbolic links to what the kernel shows of whoever follows them: CRIU would follow them as the
// node's root, with the node's files open. No other link is more than a process in the pod could have made: what is
// open behind one is refused when the paths of open files are verified, which is after this.
func shmEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeSymlink {
		return nil
	}
	target := path.Clean(h.Linkname)
	if slices.Contains(strings.Split(target, "/"), "proc") || strings.HasPrefix(target, "/dev/fd") {
		return fmt.Errorf("entry %.200q: it is a symbolic link to %.200q, and none in /dev/shm may lead to procfs: %w",
			h.Name, h.Linkname, errdefs.ErrPermissionDenied)
	}
	return nil
}

// podShm returns the directory of the node that is the pod's /dev/shm, never the node's own.
func podShm(spec *specs.Spec) (string, error) {
	i := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == shmPath })
	if i < 0 || spec.Mounts[i].Type != "bind" || slices.Contains(spec.Mounts[i].Options, "ro") {
		return "", fmt.Errorf("the checkpoint has files in /dev/shm, where the pod has nothing to write to: %w",
			errdefs.ErrFailedPrecondition)
	}
	dir := spec.Mounts[i].Source
	theirs, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("the pod's /dev/shm: %w", err)
	}
	if ours, err := os.Stat(nodeShm); err == nil && os.SameFile(ours, theirs) {
		return "", fmt.Errorf("the checkpoint has files in /dev/shm, and the pod has the node's: do not set hostIPC: %w",
			errdefs.ErrFailedPrecondition)
	}
	return dir, nil
}

func shmNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("the pod's /dev/shm: %w", err)
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

func removeNew(dir string, before []string) error {
	now, err := shmNames(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the pod is gone
	}
	errs := []error{err}
	for _, name := range now {
		if !slices.Contains(before, name) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}
