package dump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"

	"github.com/cri-restore/cri-restore/internal/changes"
)

// changes prepares the reading of the root file system's changes, and returns the function that reads
// them as a tar with whiteouts.
func (d *Dump) changes(ctx context.Context) (func(context.Context, io.Writer) error, error) {
	sn := d.store.Snapshotter(d.container.Snapshotter)
	if sn == nil {
		return nil, fmt.Errorf("snapshotter %q: %w", d.container.Snapshotter, errdefs.ErrNotFound)
	}
	mounts, err := sn.Mounts(ctx, d.container.SnapshotKey)
	if err != nil {
		return nil, err
	}
	if upper, userxattr := upperdir(mounts); upper != "" && plainOverlay() {
		return func(ctx context.Context, w io.Writer) error { return changes.WriteOverlay(ctx, w, upper, userxattr) }, nil
	}
	info, err := sn.Stat(ctx, d.container.SnapshotKey)
	if err != nil {
		return nil, err
	}
	lower, err := d.Mount("lower")
	if err != nil {
		return nil, err
	}
	view, err := sn.View(ctx, "cri-checkpoint-lower-"+d.ID, info.Parent)
	if err != nil {
		return nil, err
	}
	if err := mount.All(view, lower); err != nil {
		return nil, err
	}
	// The mount of the process itself: mounting its snapshot once more may not be possible.
	root := d.rootfs()
	if mounted, err := mountinfo.Mounted(root); err != nil || !mounted {
		return nil, errors.Join(err, fmt.Errorf("nothing is mounted at %s: %w", root, errdefs.ErrFailedPrecondition))
	}
	return func(ctx context.Context, w io.Writer) error { return changes.WriteBetween(ctx, w, lower, root) }, nil
}

// rootfs is where the root file system of the process is mounted, without what the container has mounted in it.
func (d *Dump) rootfs() string { return filepath.Join(d.store.Bundles, d.container.ID, "rootfs") }

// upperdir returns the directory with the changes of an overlay.
func upperdir(mounts []mount.Mount) (dir string, userxattr bool) {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return "", false
	}
	for _, o := range mounts[0].Options {
		if v, ok := strings.CutPrefix(o, "upperdir="); ok {
			dir = v
		}
		if strings.HasPrefix(o, "metacopy=") || strings.HasPrefix(o, "redirect_dir=") {
			return "", false
		}
	}
	return dir, slices.Contains(mounts[0].Options, "userxattr")
}

// plainOverlay reports whether the kernel's overlay file system keeps whole files in the directory with the
// changes, and no references to others (Linux: Documentation/filesystems/overlayfs.rst, "redirect_dir", "metacopy").
func plainOverlay() bool {
	for _, parameter := range []string{"metacopy", "redirect_dir"} {
		value, err := os.ReadFile("/sys/module/overlay/parameters/" + parameter)
		if err != nil || strings.TrimSpace(string(value)) != "N" {
			return false
		}
	}
	return true
}

// copyWith copies until the context ends.
func copyWith(ctx context.Context, w io.Writer, r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, contextReader{ctx, r}, make([]byte, 1<<20))
	return err
}

type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
