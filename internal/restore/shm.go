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
// errdefs.ErrPermissionDenied for symbolic links that lead elsewhere.
func FillShm(ctx context.Context, c *checkpoint.Checkpoint, spec *specs.Spec, l checkpoint.Limits) (undo func() error, err error) {
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
	var names []string
	err = applyDiff(ctx, view, diff, l.Entries, func(h *tar.Header) {
		if h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink {
			names = append(names, h.Name)
		}
	})
	err = errors.Join(err, done())
	if err == nil {
		err = shmLinks(dir, names)
	}
	if err != nil {
		if errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("the pod's /dev/shm is smaller than what the container had in it: %w: %w", err, errdefs.ErrFailedPrecondition)
		}
		return nothing, errors.Join(err, removeLinks(dir, names), undo())
	}
	return undo, nil
}

// removeLinks takes away what has been unpacked under these names, should it be a link.
func removeLinks(dir string, names []string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range names {
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		if info, err := root.Lstat(name); err == nil && info.Mode()&os.ModeSymlink != 0 {
			if err := root.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// shmLinks refuses symbolic links that the checkpoint has brought and that lead out of /dev/shm: whoever follows one as the
// node's root, as CRIU would, is led out of the container.
func shmLinks(dir string, names []string) error {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the pod's /dev/shm: %w", err)
	}
	defer unix.Close(root)
	for _, name := range names {
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		refuse := func(why string) error {
			return fmt.Errorf("the checkpoint's files of /dev/shm: %.200q %s: %w", name, why, errdefs.ErrPermissionDenied)
		}
		fd, err := unix.Openat2(root, name, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		if errors.Is(err, unix.ENOENT) {
			continue // something else has replaced it
		}
		if err != nil {
			return refuse("is behind a symbolic link")
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		unix.Close(fd)
		if err == nil && !staysInShm(name, string(buf[:n])) {
			return refuse(fmt.Sprintf("is a symbolic link to %.200q, which leads out of /dev/shm", buf[:n]))
		}
	}
	return nil
}

// staysInShm says that a link at a path without links leads to something in /dev/shm, whatever other such links there are: it
// goes up only from where it is itself, and not too far.
func staysInShm(name, target string) bool {
	up, rest := strings.Count(name, "/"), target
	if path.IsAbs(target) {
		var ok bool
		if rest, ok = strings.CutPrefix(target, shmPath+"/"); !ok {
			return false
		}
		up = 0
	}
	for first, more, found := strings.Cut(rest, "/"); first == ".."; first, more, found = strings.Cut(rest, "/") {
		if up--; up < 0 {
			return false
		}
		if rest = more; !found {
			break
		}
	}
	return !slices.Contains(strings.Split(rest, "/"), "..")
}

// podShm returns the directory of the node that is the pod's /dev/shm, never the node's own.
func podShm(spec *specs.Spec) (string, error) {
	i := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == shmPath })
	if i < 0 || spec.Mounts[i].Type != "bind" || slices.Contains(spec.Mounts[i].Options, "ro") {
		return "", fmt.Errorf("the checkpoint has files in /dev/shm, where the pod has nothing to write to: %w", errdefs.ErrFailedPrecondition)
	}
	dir := spec.Mounts[i].Source
	theirs, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("the pod's /dev/shm: %w", err)
	}
	if ours, err := os.Stat(nodeShm); err == nil && os.SameFile(ours, theirs) {
		return "", fmt.Errorf("the checkpoint has files in /dev/shm, and the pod has the node's: do not set hostIPC: %w", errdefs.ErrFailedPrecondition)
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
