package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// BuildLayout makes a checkpoint image from an archive in the OCI image layout
// dir, under the given name, beside what is there. The layout changes only when
// the image is complete; dir is created, readable by its owner only, if it is
// absent: a checkpoint image holds a process's memory.
func BuildLayout(ctx context.Context, dir, name, archivePath string, o BuildOptions) (_ ocispec.Descriptor, err error) {
	created, err := makeDir(dir)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("image layout: %w", err)
	}
	defer func() {
		if err != nil && created {
			_ = os.Remove(dir) // only if nothing is in it
		}
	}()
	var desc ocispec.Descriptor
	err = inStaging(ctx, dir, archivePath, o, func(staging string, _ content.Store, built ocispec.Descriptor) error {
		desc = built
		if err := moveBlobs(staging, dir); err != nil {
			return fmt.Errorf("image layout %s: %w", dir, err)
		}
		return WriteLayout(dir, name, desc)
	})
	return desc, err
}

// BuildArchive makes a checkpoint image from an archive as a tar of an OCI image
// layout (an oci-archive), which appears as file when it is complete, readable
// by its owner only. Beside it space for the unpacked archive and two copies of
// the image is needed meanwhile.
func BuildArchive(ctx context.Context, file, name, archivePath string, o BuildOptions) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	err := inStaging(ctx, filepath.Dir(file), archivePath, o,
		func(staging string, store content.Store, built ocispec.Descriptor) error {
			desc = built
			return writeFile(filepath.Join(staging, "archive"), file, 0o600, func(w io.Writer) error {
				return archive.Export(ctx, store, w, archive.WithManifest(withName(desc, name)), archive.WithSkipDockerManifest())
			})
		})
	return desc, err
}

// WriteLayout makes dir, whose blobs are in place, an OCI image layout in which
// desc has the given name. An existing index keeps its other entries.
func WriteLayout(dir, name string, desc ocispec.Descriptor) error {
	if err := writeLayout(dir, name, desc); err != nil {
		return fmt.Errorf("image layout %s: %w", dir, err)
	}
	return nil
}

func writeLayout(dir, name string, desc ocispec.Descriptor) error {
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer lock.Close() // and unlock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock: %w", err)
	}

	layout := ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}
	if err := readDocument(filepath.Join(dir, ocispec.ImageLayoutFile), &layout); err != nil {
		return err
	}
	if layout.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("its version is %q, not %q: %w", layout.Version, ocispec.ImageLayoutVersion,
			errdefs.ErrFailedPrecondition)
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	if err := readDocument(filepath.Join(dir, ocispec.ImageIndexFile), &index); err != nil {
		return err
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
		if n, ok := d.Annotations[images.AnnotationImageName]; ok {
			return n == name
		}
		return d.Annotations[ocispec.AnnotationRefName] == name
	})
	index.Manifests = append(index.Manifests, withName(desc, name))

	if err := writeDocument(filepath.Join(dir, ocispec.ImageLayoutFile), layout); err != nil {
		return err
	}
	return writeDocument(filepath.Join(dir, ocispec.ImageIndexFile), index)
}

// withName returns desc with the annotations by which tools name an entry of a
// layout: the OCI one, and the one that containerd's import prefers.
func withName(desc ocispec.Descriptor, name string) ocispec.Descriptor {
	desc.Annotations = maps.Clone(desc.Annotations)
	if desc.Annotations == nil {
		desc.Annotations = make(map[string]string)
	}
	desc.Annotations[images.AnnotationImageName] = name
	desc.Annotations[ocispec.AnnotationRefName] = name
	return desc
}

// inStaging builds the image in a private directory in dir, calls f, which
// renames things from there into place, and removes the directory.
func inStaging(ctx context.Context, dir, archivePath string, o BuildOptions,
	f func(staging string, store content.Store, desc ocispec.Descriptor) error) (err error) {
	staging, err := os.MkdirTemp(dir, ".checkpoint-image-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staging)) }()
	store, err := local.NewStore(staging)
	if err != nil {
		return err
	}
	if o.TempDir == "" {
		o.TempDir = staging
	}
	desc, err := Build(ctx, store, archivePath, o)
	if err != nil {
		return err
	}
	return f(staging, store, desc)
}

// moveBlobs moves the blobs of one layout into another of the same file system.
func moveBlobs(from, to string) error {
	sub := filepath.Join(ocispec.ImageBlobsDir, digest.SHA256.String())
	blobs, err := os.ReadDir(filepath.Join(from, sub))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(to, sub), 0o755); err != nil {
		return err
	}
	for _, blob := range blobs {
		// One that is there already has the same content: that is its name.
		name := filepath.Join(sub, blob.Name())
		if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// makeDir reports whether it had to create dir.
func makeDir(dir string) (bool, error) {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// readDocument leaves v as it is if the file is absent.
func readDocument(file string, v any) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxDocument)).Decode(v); err != nil {
		return fmt.Errorf("%s: %w: %w", file, err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func writeDocument(file string, v any) error {
	return writeFile(file+".tmp", file, 0o644, func(w io.Writer) error { return json.NewEncoder(w).Encode(v) })
}

// writeFile writes by way of tmp, of the same file system, so that file is
// always whole.
func writeFile(tmp, file string, perm fs.FileMode, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}
