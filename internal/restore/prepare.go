package restore

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/criu"
)

// AnnotationCRIUConfig names the CRIU configuration file that runc hands over
// (runc: libcontainer/criu_linux.go). The file overrides what runc asks for, so on a restored
// container it is always the plugin's.
const AnnotationCRIUConfig = "org.criu.config"

// Prepare makes everything ready for CRIU that a restart of the node may have
// lost since the container was created. It returns CRIU's image and work directories.
func (s *Store) Prepare(ctx context.Context, r *Record) (images, work string, err error) {
	if r.Ended || r.Draining {
		return "", "", fmt.Errorf("restore %s was tried already: remove the container and create it again: %w", r.ID,
			errdefs.ErrFailedPrecondition)
	}
	if err := s.Dirs.Make(r.ID); err != nil {
		return "", "", err
	}
	if r.SnapshotKey != "" {
		sn := s.Snapshotter(r.Snapshotter)
		if sn == nil {
			return "", "", fmt.Errorf("snapshotter %q of checkpoint image %s: %w", r.Snapshotter, r.Image, errdefs.ErrNotFound)
		}
		mounts, err := sn.Mounts(ctx, r.SnapshotKey)
		if err != nil {
			return "", "", fmt.Errorf("view of checkpoint image %s: %w", r.Image, err)
		}
		if err := MountView(mounts, s.Dirs.View(r.ID)); err != nil {
			return "", "", err
		}
	}
	c, err := checkpoint.Open(s.Dirs.Checkpoint(r), s.Limits)
	if err != nil {
		return "", "", fmt.Errorf("checkpoint %s: %w", r.Image, err)
	}
	images = c.ImagesDir()
	if err := errors.Join(s.coverImages(ctx, r, images), c.Close()); err != nil {
		return "", "", err
	}
	return images, s.Dirs.Work(r.ID), nil
}

// WriteConfig writes the CRIU configuration of the restored container: the
// node's own for runc, then what every restore needs. It returns the value of
// the annotation org.criu.config.
func (s *Store) WriteConfig(r *Record, spec *specs.Spec) (annotation map[string]string, err error) {
	var base []byte
	if s.CRIUConfig != "" {
		base, err = os.ReadFile(s.CRIUConfig)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("criu_config: %w", err)
		}
	}
	options, err := s.criuOptions(r, spec)
	if err != nil {
		return nil, err
	}
	content, err := criu.ConfigFile(base, options)
	if err != nil {
		return nil, fmt.Errorf("criu_config %s: %w", s.CRIUConfig, err)
	}
	file := s.Dirs.Config(r.ID)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		return nil, fmt.Errorf("CRIU configuration of restore %s: %w", r.ID, err)
	}
	return map[string]string{AnnotationCRIUConfig: file}, nil
}
