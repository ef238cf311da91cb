package changes

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/regular"
)

// The names of whiteouts in a tar (OCI image specification, layer.md).
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// maxPath bounds paths, in bytes: what is longer cannot be unpacked by path.
const maxPath = unix.PathMax - 1

// capability is the one extended attribute that is kept, as containerd does (pkg/archive).
const capability = "security.capability"

// writer makes the tar.
type writer struct {
	ctx   context.Context
	tar   *tar.Writer
	links map[inode]string   // the first name of each file that has several
	kept  map[inode][]string // the names of such files that are as they were, until another name is written
	buf   []byte
}

type inode struct{ dev, ino uint64 }

func (n *node) inode() inode { return inode{n.st.Dev, n.st.Ino} }

// shared reports whether it may have several names.
func (n *node) shared() bool { return n.st.Nlink > 1 && !n.is(unix.S_IFDIR) }

func newWriter(ctx context.Context, w io.Writer) *writer {
	return &writer{ctx: ctx, tar: tar.NewWriter(w), links: map[inode]string{}, kept: map[inode][]string{},
		buf: make([]byte, 256<<10)}
}

// open is open for a path that is relative to the root, nil if it was deleted meanwhile.
func (w *writer) open(dir *os.File, name string) (*node, error) {
	if err := w.ctx.Err(); err != nil {
		return nil, err
	}
	if len(name) > maxPath {
		return nil, fmt.Errorf("%.200q...: its path is longer than %d bytes: remove it, or make it shorter: %w", name,
			maxPath, errdefs.ErrFailedPrecondition)
	}
	n, err := open(dir, path.Base(name))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return n, nil
}

// each calls f with everything in a directory, by its path relative to the root.
func (w *writer) each(name string, n *node, f func(child string, n *node) error) error {
	dir, err := n.reopen()
	if err != nil {
		return fmt.Errorf("%.200q: %w", name, err)
	}
	defer dir.Close()
	list, err := names(dir)
	if err != nil {
		return fmt.Errorf("%.200q: %w", name, err)
	}
	for _, base := range list {
		child := path.Join(name, base)
		n, err := w.open(dir, child)
		if err == nil && n != nil {
			err = f(child, n)
			n.close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// add writes a file of any kind, of a directory only that it is there.
func (w *writer) add(name string, n *node) error {
	if n.is(unix.S_IFSOCK) {
		return nil // whoever listens makes it anew
	}
	if err := w.addNode(name, n); err != nil {
		return fmt.Errorf("%.200q: %w", name, err)
	}
	return nil
}

func (w *writer) addNode(name string, n *node) error {
	h, err := header(name, n)
	if err != nil {
		return err
	}
	if !n.shared() {
		return w.addFirst(h, n)
	}
	if first, ok := w.links[n.inode()]; ok {
		return w.tar.WriteHeader(link(h, h.Name, first))
	}
	w.links[n.inode()] = name
	if err := w.addFirst(h, n); err != nil {
		return err
	}
	for _, other := range w.kept[n.inode()] {
		if err := w.tar.WriteHeader(link(h, other, name)); err != nil {
			return err
		}
	}
	delete(w.kept, n.inode())
	return nil
}

// keep is told of a file that is as it was: if it has another name that was not there, that is to be a name of the same
// file.
func (w *writer) keep(name string, n *node) error {
	if !n.shared() {
		return nil
	}
	if _, ok := w.links[n.inode()]; ok {
		return w.add(name, n)
	}
	w.kept[n.inode()] = append(w.kept[n.inode()], name)
	return nil
}

// link is the header of another name of a file.
func link(h *tar.Header, name, first string) *tar.Header {
	out := *h
	out.Typeflag, out.Name, out.Linkname, out.Size, out.PAXRecords = tar.TypeLink, name, first, 0, nil
	return &out
}

// addFirst writes a file under its only or first name.
func (w *writer) addFirst(h *tar.Header, n *node) error {
	if !n.is(unix.S_IFREG) {
		return w.tar.WriteHeader(h)
	}
	f, err := n.reopen()
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	h.Size = fi.Size()
	if err := w.tar.WriteHeader(h); err != nil {
		return err
	}
	return w.content(f, h.Size)
}

// content writes as much as the header has promised, whoever changes the file meanwhile.
func (w *writer) content(f io.Reader, size int64) error {
	n, err := io.CopyBuffer(w.tar, regular.Reader(w.ctx, io.LimitReader(f, size)), w.buf)
	if err != nil {
		return err
	}
	_, err = io.CopyN(w.tar, zeros{}, size-n)
	return err
}

// header describes the file as containerd's own checkpoints do: times in seconds, no names of users.
func header(name string, n *node) (*tar.Header, error) {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: name, Mode: int64(n.st.Mode & 0o7777), Uid: int(n.st.Uid), Gid: int(n.st.Gid),
		ModTime: time.Unix(n.st.Mtim.Sec, 0),
	}
	var err error
	switch n.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag = tar.TypeReg
		var value []byte
		if value, err = n.xattr(capability); len(value) > 0 {
			h.PAXRecords = map[string]string{"SCHILY.xattr." + capability: string(value)}
		}
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		h.Linkname, err = n.target()
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if n.is(unix.S_IFBLK) {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(n.st.Rdev)), int64(unix.Minor(n.st.Rdev))
	default:
		err = fmt.Errorf("type %#o is unknown: %w", n.st.Mode&unix.S_IFMT, errdefs.ErrFailedPrecondition)
	}
	return h, err
}

// delete writes that a path of the image is gone.
func (w *writer) delete(name string) error {
	dir, base := path.Split(name)
	return w.mark(dir + whiteout + base)
}

// hide writes that nothing of the image is in a directory any more.
func (w *writer) hide(dir string) error { return w.mark(dir + "/" + opaque) }

func (w *writer) mark(name string) error {
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0)})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
