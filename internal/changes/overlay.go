package changes

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// WriteOverlay writes what is in upper, the directory with the changes of an overlay, without a look at what it covers.
// It takes no longer than there is to write, however large the image is. userxattr is the overlay's option of that
// name. Errors: the context's; errdefs.ErrFailedPrecondition for a path that is too long for any restore.
func WriteOverlay(ctx context.Context, w io.Writer, upper string, userxattr bool) error {
	root, err := openRoot(upper)
	if err != nil {
		return err
	}
	defer root.close()
	o := &overlay{writer: newWriter(ctx, w), opaque: "trusted.overlay.opaque"}
	if userxattr {
		o.opaque = "user.overlay.opaque"
	}
	if err := o.directory("", root); err != nil {
		return err
	}
	return o.tar.Close()
}

type overlay struct {
	*writer
	opaque string // the extended attribute of a directory that replaces the image's
}

// directory writes what is in a directory.
func (o *overlay) directory(name string, n *node) error { return o.each(name, n, o.node) }

func (o *overlay) node(name string, n *node) error {
	if n.isWhiteout() {
		return o.delete(name)
	}
	if err := o.add(name, n); err != nil || !n.is(unix.S_IFDIR) {
		return err
	}
	value, err := n.xattr(o.opaque)
	if err != nil && !errors.Is(err, unix.ERANGE) {
		return fmt.Errorf("%.200q: %w", name, err)
	}
	if string(value) == "y" {
		if err := o.hide(name); err != nil {
			return err
		}
	}
	return o.directory(name, n)
}
