package changes

import (
	"context"
	"io"

	"golang.org/x/sys/unix"
)

// WriteTree writes all that is in a directory but sockets, which whoever listens makes anew, and device nodes, which
// come from the pod.
func WriteTree(ctx context.Context, w io.Writer, dir string) error {
	root, err := openRoot(dir)
	if err != nil {
		return err
	}
	defer root.close()
	t := newWriter(ctx, w)
	if err := t.tree("", root); err != nil {
		return err
	}
	return t.tar.Close()
}

func (w *writer) tree(name string, n *node) error {
	return w.each(name, n, func(child string, n *node) error {
		if n.is(unix.S_IFCHR) || n.is(unix.S_IFBLK) {
			return nil
		}
		if err := w.add(child, n); err != nil || !n.is(unix.S_IFDIR) {
			return err
		}
		return w.tree(child, n)
	})
}
