package image

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/regular"
)

// Compression of a layer.
type Compression string

// The compressions that an OCI layer may have.
const (
	Zstd         Compression = "zstd"
	Gzip         Compression = "gzip"
	Uncompressed Compression = "none"
)

// ParseCompression returns the compression of that name. The error is of class
// errdefs.ErrInvalidArgument.
func ParseCompression(name string) (Compression, error) {
	switch c := Compression(name); c {
	case Zstd, Gzip, Uncompressed:
		return c, nil
	}
	return "", fmt.Errorf("compression %q is none of %s, %s and %s: %w", name, Zstd, Gzip, Uncompressed,
		errdefs.ErrInvalidArgument)
}

func (c Compression) mediaType() string {
	switch c {
	case Gzip:
		return ocispec.MediaTypeImageLayerGzip
	case Uncompressed:
		return ocispec.MediaTypeImageLayer
	default: // Zstd, and what nobody has chosen
		return ocispec.MediaTypeImageLayerZstd
	}
}

// writer compresses into w at the fastest level: a checkpoint is mostly memory,
// and the container waits.
func (c Compression) writer(w io.Writer) (io.WriteCloser, error) {
	switch c {
	case Gzip:
		return gzip.NewWriterLevel(w, gzip.BestSpeed)
	case Uncompressed:
		return nopCloser{w}, nil
	default: // Zstd, and what nobody has chosen
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest))
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// writeLayer writes the checkpoint's directory as a layer.
func writeLayer(ctx context.Context, store content.Store, c *checkpoint.Checkpoint,
	compression Compression) (_ ocispec.Descriptor, diffID digest.Digest, err error) {
	ref := "checkpoint-image-layer-" + rand.Text()
	cw, err := content.OpenWriter(ctx, store, content.WithRef(ref))
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	defer func() {
		if cerr := cw.Close(); err == nil && cerr != nil {
			err = cerr
		}
		if err != nil {
			if aerr := store.Abort(context.WithoutCancel(ctx), ref); aerr != nil && !errdefs.IsNotFound(aerr) {
				err = errors.Join(err, aerr)
			}
		}
	}()
	var (
		buf = bufio.NewWriterSize(cw, 1<<20) // containerd's store is behind gRPC
		sum = digest.SHA256.Digester()
	)
	z, err := compression.writer(buf)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	w := io.Writer(z)
	if compression != Uncompressed { // else the store's digest is that of the same bytes
		w = io.MultiWriter(z, sum.Hash())
	}
	err = writeTar(ctx, w, c)
	if err = errors.Join(err, z.Close()); err != nil { // also ends the goroutines of the encoder
		return ocispec.Descriptor{}, "", err
	}
	if err := buf.Flush(); err != nil {
		return ocispec.Descriptor{}, "", err
	}
	status, err := cw.Status()
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	desc := ocispec.Descriptor{MediaType: compression.mediaType(), Digest: cw.Digest(), Size: status.Offset}
	if err := cw.Commit(ctx, desc.Size, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return ocispec.Descriptor{}, "", err
	}
	diffID = desc.Digest
	if compression != Uncompressed {
		diffID = sum.Digest()
	}
	return desc, diffID, label(ctx, store, desc.Digest, map[string]string{labels.LabelUncompressed: diffID.String()})
}

// writeTar writes the tree in lexical order, owned by root and closed to others,
// with the time of the checkpoint: nothing of it depends on when and where the
// image is made. The tree has been checked by package checkpoint.
func writeTar(ctx context.Context, w io.Writer, c *checkpoint.Checkpoint) error {
	root, err := os.OpenRoot(c.Dir())
	if err != nil {
		return err
	}
	defer root.Close()
	at := time.Unix(0, 0)
	if !c.Metadata.CheckpointedAt.IsZero() {
		at = c.Metadata.CheckpointedAt.Truncate(time.Second)
	}
	tw := tar.NewWriter(w)
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if d.IsDir() {
			return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o700, ModTime: at})
		}
		return writeFileEntry(ctx, tw, root, name, at)
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

func writeFileEntry(ctx context.Context, tw *tar.Writer, root *os.Root, name string, at time.Time) error {
	f, size, err := regular.OpenIn(root, name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: size,
		ModTime: at}); err != nil {
		return err
	}
	if _, err := io.Copy(tw, regular.Reader(ctx, f)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
