package checkpoint

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/errdefs"
)

// Names of whiteouts in layers (image-spec: layer.md).
const (
	whiteout       = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// changes writes the changes to the root file system as Podman does: a plain tar, and a list of what was deleted. The
// tar has an entry for "/", to which Podman's storage gives that mode. One for "." it would pass over.
func (p *podmanWriter) changes(c *Checkpoint, o PodmanOptions) error {
	// Its size has to be known before it is written.
	plain, err := os.CreateTemp(o.TempDir, "rootfs-diff-")
	if err != nil {
		return err
	}
	defer os.Remove(plain.Name())
	defer plain.Close()
	deleted := []string{}
	out := tar.NewWriter(plain)
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "/", Mode: int64(o.RootMode)}); err != nil {
		return err
	}
	diff, err := c.OpenRootfsDiff(p.ctx)
	if err == nil {
		deleted, err = plainDiff(out, diff)
		err = errors.Join(err, diff.Close())
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("%s: %w", metadata.RootFsDiffTar, err)
	}
	if err := out.Close(); err != nil {
		return err
	}
	if _, err := plain.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := p.copy(metadata.RootFsDiffTar, plain); err != nil {
		return err
	}
	if len(deleted) == 0 {
		return nil
	}
	return p.json(metadata.DeletedFilesFile, deleted)
}

// plainDiff copies what is no whiteout and returns what the others delete.
func plainDiff(out *tar.Writer, diff *Diff) (deleted []string, err error) {
	for r := tar.NewReader(diff); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			// To the checksum of a compressed tar.
			if _, err := io.Copy(io.Discard, diff); err != nil {
				return nil, diff.Explain(err)
			}
			return deleted, nil
		}
		if err != nil {
			return nil, diff.Explain(err)
		}
		name := path.Clean("/" + h.Name)
		dir, base := path.Split(name)
		switch {
		case base == whiteoutOpaque:
			return nil, fmt.Errorf("directory %s was replaced, which Podman's format cannot say: %w", quote(dir),
				errdefs.ErrFailedPrecondition)
		case strings.HasPrefix(base, whiteout):
			deleted = append(deleted, path.Join(dir, strings.TrimPrefix(base, whiteout)))
			continue
		case name == "/":
			continue
		}
		if err := out.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := io.CopyN(out, r, h.Size); err != nil {
			return nil, diff.Explain(err)
		}
	}
}
