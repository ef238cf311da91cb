package restore

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// ApplyRootfs brings the changes that the checkpointed container had made to
// its root file system onto the new container's snapshot, which is mounted at
// dir for that time.
func ApplyRootfs(ctx context.Context, c *checkpoint.Checkpoint, mounts []mount.Mount, dir string,
	l checkpoint.Limits) (err error) {
	diff, err := c.OpenRootfsDiff(ctx)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	deleted, err := c.DeletedFiles()
	if err != nil {
		return err
	}
	if diff == nil && len(deleted) == 0 {
		return nil
	}
	if diff != nil {
		defer diff.Close()
	}
	unmount, err := mountRootfs(mounts, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	if err := removeFiles(dir, deleted); err != nil {
		return err
	}
	if diff == nil {
		return nil
	}
	return applyDiff(ctx, dir, diff, l.Entries, anyEntry)
}

// looksPerEntry is at how many elements of a path the kernel may look for an entry of a diff, as a mean: containerd's
// archive package asks about each directory above it, by its whole path. It lets all entries be 22 deep, which files
// of programs in deep folders are not.
const looksPerEntry = 512

func anyEntry(*tar.Header) error { return nil }

// applyDiff unpacks a diff of which every entry passes checkEntry and this check.
func applyDiff(ctx context.Context, dir string, diff *checkpoint.Diff, maxEntries int,
	check func(*tar.Header) error) error {
	entries, looks := 0, 0
	var last *tar.Header
	filter := func(h *tar.Header) (bool, error) {
		last = h
		if entries++; entries > maxEntries {
			return false, fmt.Errorf("more than %d entries: raise max_entries if that is right: %w", maxEntries,
				errdefs.ErrResourceExhausted)
		}
		depth := 1 + strings.Count(h.Name, "/")
		if looks += depth * depth; looks/looksPerEntry > maxEntries {
			return false, fmt.Errorf("%d entries, down to entry %.200q, are too deep: raise max_entries if that is right: %w",
				entries, h.Name, errdefs.ErrResourceExhausted)
		}
		return true, errors.Join(checkEntry(h), check(h))
	}
	options := []archive.ApplyOpt{archive.WithFilter(filter)}
	if !diff.Whiteouts {
		options = append(options, archive.WithConvertWhiteout(literal))
	}
	_, err := archive.Apply(ctx, dir, diff, options...)
	if err == nil {
		// To the end, where the checksum of a compressed tar is.
		_, err = io.Copy(io.Discard, diff)
	}
	if link := (*os.LinkError)(nil); errors.As(err, &link) && errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("entry %.200q is a link to %.200q, which is not in the root file system: %w", last.Name,
			last.Linkname, errdefs.ErrInvalidArgument)
	}
	if errno := syscall.Errno(0); last != nil && errors.As(err, &errno) && slices.Contains(contradictions, errno) {
		err = fmt.Errorf("entry %.200q does not fit what is in the root file system: %w: %w", last.Name, err,
			errdefs.ErrInvalidArgument)
	}
	if errdefs.IsPermissionDenied(err) {
		return fmt.Errorf("apply %s: %w", diff.Name(), err) // no matter of the archive's form
	}
	if err != nil {
		return fmt.Errorf("apply %s: %w", diff.Name(), diff.Explain(err))
	}
	return nil
}

// literal unpacks names that begin like whiteouts as they are, from archives that have no whiteouts.
func literal(*tar.Header, string) (bool, error) { return true, nil }

// contradictions are what the kernel says of an entry that cannot be where it is to be: below a
// file, through a link to itself, by a name that is too long. That is no fault of the node.
var contradictions = []syscall.Errno{
	syscall.ENOTDIR, syscall.EISDIR, syscall.EEXIST, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.ENOTEMPTY,
	syscall.EINVAL,
}

// checkEntry refuses what no container can have left in its root file system by ordinary means.
// Names are resolved inside the root by containerd's archive package.
func checkEntry(h *tar.Header) error {
	refuse := func(why string) error {
		return fmt.Errorf("entry %.200q: %s: %w", h.Name, why, errdefs.ErrInvalidArgument)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeXGlobalHeader:
	default:
		return refuse(fmt.Sprintf("type %q is not allowed: device nodes come from the pod, not from a checkpoint",
			h.Typeflag))
	}
	if strings.ContainsRune(h.Name, 0) {
		return refuse("name with a NUL byte")
	}
	for _, element := range strings.Split(h.Name, "/") {
		if element == ".." {
			return refuse("name leaves the root file system")
		}
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "SCHILY.xattr.trusted.") {
			return refuse("extended attribute " + strings.TrimPrefix(key, "SCHILY.xattr.") + " belongs to the node")
		}
	}
	return nil
}

// removeFiles deletes the paths that the old container had deleted. os.Root
// follows no link out of the root file system.
func removeFiles(dir string, paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	defer root.Close()
	for _, p := range paths {
		err := root.RemoveAll(strings.TrimPrefix(p, "/"))
		if err == nil || errors.Is(err, os.ErrNotExist) {
			continue
		}
		var errno syscall.Errno
		if !errors.As(err, &errno) || slices.Contains(contradictions, errno) {
			// Not the kernel refused it but os.Root: a link leads out. Or there cannot be such a file.
			err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		return fmt.Errorf("deleted.files: %.200q: %w", p, err)
	}
	return nil
}
