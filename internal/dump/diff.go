package dump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	cfs "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
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
		return func(ctx context.Context, w io.Writer) error { return writeUpper(ctx, w, upper, userxattr) }, nil
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
	root := filepath.Join(d.store.Bundles, d.container.ID, "rootfs")
	if mounted, err := mountinfo.Mounted(root); err != nil || !mounted {
		return nil, errors.Join(err, fmt.Errorf("nothing is mounted at %s: %w", root, errdefs.ErrFailedPrecondition))
	}
	return func(ctx context.Context, w io.Writer) error { return archive.WriteDiff(ctx, w, lower, root) }, nil
}

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

// writeUpper writes what is in the directory with the changes of an overlay, without a look at what it covers. It
// takes no longer than there is to write, however large the image is.
func writeUpper(ctx context.Context, w io.Writer, upper string, userxattr bool) error {
	cw := archive.NewChangeWriter(w, upper)
	err := filepath.WalkDir(upper, func(name string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || name == upper {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		path := strings.TrimPrefix(name, upper)
		if isWhiteout(fi) {
			return cw.HandleChange(cfs.ChangeKindDelete, path, nil, nil)
		}
		if err := cw.HandleChange(cfs.ChangeKindModify, path, fi, nil); err != nil {
			return err
		}
		if !fi.IsDir() {
			return nil
		}
		opaque, err := isOpaque(name, userxattr)
		if err == nil && opaque {
			// The writer makes it .wh..wh..opq, which hides all that the directory covers.
			err = cw.HandleChange(cfs.ChangeKindDelete, path+"/.wh..opq", nil, nil)
		}
		return err
	})
	if err != nil {
		return err
	}
	return cw.Close()
}

func isWhiteout(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && fi.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

func isOpaque(dir string, userxattr bool) (bool, error) {
	name := "trusted.overlay.opaque"
	if userxattr {
		name = "user.overlay.opaque"
	}
	var value [1]byte
	n, err := unix.Lgetxattr(dir, name, value[:])
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ERANGE) {
		return false, nil
	}
	return n == 1 && value[0] == 'y', err
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
