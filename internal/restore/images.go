package restore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/mounts"
	"github.com/cri-restore/cri-restore/internal/regular"
)

// WriteReplaced keeps images that CRIU is to read in the place of the checkpoint's, until the
// restore is prepared.
func (s *Store) WriteReplaced(r *Record, images map[string][]byte) error {
	if len(images) == 0 {
		return nil
	}
	dir := s.Dirs.Replaced(r.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("CRIU images of restore %s: %w", r.ID, err)
	}
	for name, data := range images {
		if !filepath.IsLocal(name) || strings.ContainsRune(name, filepath.Separator) {
			return fmt.Errorf("CRIU image %q of restore %s is no file name: %w", name, r.ID, errdefs.ErrInvalidArgument)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return fmt.Errorf("CRIU images of restore %s: %w", r.ID, err)
		}
	}
	return nil
}

// coverImages mounts the replaced images over those in the directory that CRIU will read,
// after it has made sure that these are the ones that were verified. What a try before a restart of containerd has
// mounted there goes first.
func (s *Store) coverImages(ctx context.Context, r *Record, images string) error {
	if err := mounts.Below(images); err != nil {
		return fmt.Errorf("CRIU images of restore %s: %w", r.ID, err)
	}
	if r.ImagesDigest != "" {
		now, err := Digest(ctx, images)
		if err != nil {
			return err
		}
		if now != digest.Digest(r.ImagesDigest) {
			return fmt.Errorf("CRIU images of checkpoint %s have changed since they were verified: they were %s and are %s, "+
				"remove the container and create it again: %w", r.Image, r.ImagesDigest, now, errdefs.ErrFailedPrecondition)
		}
	}
	entries, err := os.ReadDir(s.Dirs.Replaced(r.ID))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("CRIU images of restore %s: %w", r.ID, err)
	}
	for _, e := range entries {
		if err := bindOver(filepath.Join(s.Dirs.Replaced(r.ID), e.Name()), filepath.Join(images, e.Name())); err != nil {
			return fmt.Errorf("CRIU image %s: %w", e.Name(), err)
		}
	}
	return nil
}

// Digest returns a digest of the CRIU images in a directory: of the names, sizes and contents of all
// files, except that of pages there is no more than name and size. Pages grant
// nothing and may be many GiB.
func Digest(ctx context.Context, dir string) (digest.Digest, error) {
	images, err := criu.OpenImages(dir)
	if err != nil {
		return "", err
	}
	defer images.Close()
	sum := sha256.New()
	for _, name := range images.Names() {
		size, _ := images.Size(name)
		sum.Write(binary.AppendVarint(append([]byte(name), 0), size))
		if strings.HasPrefix(name, "pages-") {
			continue
		}
		f, err := images.Open(name)
		if err != nil {
			return "", err
		}
		n, err := io.Copy(sum, regular.Reader(ctx, io.LimitReader(f, size+1)))
		f.Close()
		if err != nil {
			return "", fmt.Errorf("CRIU image %s: %w", name, err)
		}
		if n != size {
			return "", fmt.Errorf("CRIU image %s changes while it is read: %w", name, errdefs.ErrFailedPrecondition)
		}
	}
	return digest.NewDigest(digest.SHA256, sum), nil
}
