package changes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// WriteBetween writes what root has and lower has not, or not in the same way: for file systems that do not keep the
// changes in a place of their own. Nobody changes lower. Errors as of [WriteOverlay].
func WriteBetween(ctx context.Context, w io.Writer, lower, root string) error {
	before, err := openRoot(lower)
	if err != nil {
		return err
	}
	defer before.close()
	now, err := openRoot(root)
	if err != nil {
		return err
	}
	defer now.close()
	b := &between{newWriter(ctx, w)}
	if err := b.directory("", before, now); err != nil {
		return err
	}
	return b.tar.Close()
}

type between struct{ *writer }

// directory writes the changes in a directory, which was not there before if before is nil.
func (b *between) directory(name string, before, now *node) error {
	was, old, err := b.list(name, before)
	if err != nil {
		return err
	}
	defer was.Close()
	is, list, err := b.list(name, now)
	if err != nil {
		return err
	}
	defer is.Close()
	all := slices.Compact(slices.Sorted(slices.Values(append(old, list...))))
	for _, base := range all {
		child := path.Join(name, base)
		if err := b.child(child, was, is, slices.Contains(old, base)); err != nil {
			return err
		}
	}
	return nil
}

// list opens a directory and lists it. Of nil it returns nil, which can be closed.
func (b *between) list(name string, n *node) (*os.File, []string, error) {
	if n == nil {
		return nil, nil, nil
	}
	dir, err := n.reopen()
	if err != nil {
		return nil, nil, fmt.Errorf("%.200q: %w", name, err)
	}
	list, err := names(dir)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%.200q: %w", name, err), dir.Close())
	}
	return dir, list, nil
}

func (b *between) child(name string, was, is *os.File, old bool) error {
	now, err := b.open(is, name)
	if err != nil {
		return err
	}
	if now != nil {
		defer now.close()
	}
	var before *node
	if old {
		if before, err = b.open(was, name); err != nil {
			return err
		}
	}
	if before != nil {
		defer before.close()
	}
	if now == nil {
		if before == nil {
			return nil
		}
		return b.delete(name)
	}
	changed, err := b.differs(before, now)
	if err != nil {
		return fmt.Errorf("%.200q: %w", name, err)
	}
	if !now.is(unix.S_IFDIR) {
		if !changed {
			return b.keep(name, now)
		}
		return b.add(name, now)
	}
	if before != nil && !before.is(unix.S_IFDIR) {
		before = nil
	}
	if changed {
		if err := b.add(name, now); err != nil {
			return err
		}
	}
	return b.directory(name, before, now)
}

// differs reports whether a file is another than it was.
func (b *between) differs(before, now *node) (bool, error) {
	if before == nil {
		return true, nil
	}
	was, is := &before.st, &now.st
	if was.Mode != is.Mode || was.Uid != is.Uid || was.Gid != is.Gid || was.Rdev != is.Rdev {
		return true, nil
	}
	switch was.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if was.Size != is.Size || was.Mtim != is.Mtim {
			return true, nil
		}
		if changed, err := compare(before, now, func(n *node) (string, error) {
			v,
				err := n.xattr(capability)
			return string(v), err
		}); changed || err != nil {
			return changed, err
		}
		if was.Mtim.Nsec != 0 || was.Dev == is.Dev && was.Ino == is.Ino {
			return false, nil
		}
		// From an image, which has seconds only: the content decides, as for containerd (continuity: fs/diff_unix.go).
		same, err := b.sameContent(before, now)
		return !same, err
	case unix.S_IFLNK:
		return compare(before, now, (*node).target)
	}
	return false, nil
}

func compare(before, now *node, of func(*node) (string, error)) (differ bool, err error) {
	was, err := of(before)
	if err != nil {
		return false, err
	}
	is, err := of(now)
	return was != is, err
}

func (b *between) sameContent(before, now *node) (bool, error) {
	was, err := before.reopen()
	if err != nil {
		return false, err
	}
	defer was.Close()
	is, err := now.reopen()
	if err != nil {
		return false, err
	}
	defer is.Close()
	half := len(b.buf) / 2
	for {
		if err := b.ctx.Err(); err != nil {
			return false, err
		}
		n, err := io.ReadFull(was, b.buf[:half])
		m, err2 := io.ReadFull(is, b.buf[half:])
		if err = errors.Join(ended(err), ended(err2)); err != nil {
			return false, err
		}
		if !bytes.Equal(b.buf[:n], b.buf[half:half+m]) {
			return false, nil
		}
		if n < half {
			return true, nil
		}
	}
}

// ended is nil for the end of a file.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
