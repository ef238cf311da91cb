package cri

import (
	"context"
	"fmt"
	"os"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/image"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// source is where a checkpoint comes from.
type source interface {
	// name is the name by which the user knows it.
	name() string
	// admit applies the node's policy to it.
	admit() error
	// open makes the checkpoint readable in the restore's directories and says in
	// the record how to find it again.
	open(ctx context.Context, p *pod, r *restore.Record) (*checkpoint.Checkpoint, error)
}

// imageSource is a checkpoint image. It is not copied: a read-only view of its
// snapshot is mounted.
type imageSource struct {
	node  *Node
	image *image.Image
	ref   *runtime.ImageSpec
}

func (s *imageSource) name() string { return s.image.Called(s.ref) }

// admit asks by the names that the node knows, because the request could give any.
func (s *imageSource) admit() error {
	return s.node.Policy.Image(s.name(), append(s.image.References, s.image.ID)...)
}

func (s *imageSource) open(ctx context.Context, p *pod, r *restore.Record) (*checkpoint.Checkpoint, error) {
	r.ImageDigest, r.ImageID = s.image.Target.Digest.String(), s.image.ID
	r.Snapshotter, r.SnapshotKey = p.snapshotter, restore.SnapshotKey(r.ID)
	return s.node.view(ctx, s.image, r, checkpoint.Unpack)
}

// unpacker unpacks what is needed of an archive.
type unpacker func(ctx context.Context, archive, dst string, l checkpoint.Limits) error

// view mounts a view of the image and opens the checkpoint in it, which [looker] has seen there. An image that holds an
// archive in one piece is unpacked as the archive would be.
func (n *Node) view(ctx context.Context, img *image.Image, r *restore.Record, unpack unpacker) (*checkpoint.Checkpoint,
	error) {
	if err := n.Restores.Dirs.Make(r.ID); err != nil {
		return nil, err
	}
	mounts, err := image.View(ctx, n.Client, img, r.Snapshotter, r.SnapshotKey, map[string]string{restore.LabelID: r.ID})
	if err != nil {
		return nil, fmt.Errorf("checkpoint image %s: %w", r.Image, err)
	}
	dir := n.Restores.Dirs.View(r.ID)
	if err := restore.MountView(mounts, dir); err != nil {
		return nil, fmt.Errorf("checkpoint image %s: %w", r.Image, err)
	}
	found, err := checkpoint.Found(dir)
	if err != nil {
		return nil, fmt.Errorf("checkpoint image %s: %w", r.Image, err)
	}
	if !found {
		archive, err := checkpoint.Nested(dir)
		if err != nil {
			return nil, fmt.Errorf("checkpoint image %s: %w", r.Image, err)
		}
		if archive != "" {
			return n.unpackNested(ctx, archive, r, unpack)
		}
	}
	c, err := checkpoint.Open(dir, n.Limits)
	if err != nil {
		return nil, fmt.Errorf("checkpoint image %s: %w", r.Image, err)
	}
	return c, nil
}

// unpackNested opens the checkpoint in an archive that an image holds. The view of the image is not needed any longer
// then.
func (n *Node) unpackNested(ctx context.Context, archive string, r *restore.Record,
	unpack unpacker) (*checkpoint.Checkpoint, error) {
	dir := n.Restores.Dirs.Archive(r.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("checkpoint image %s: %w", r.Image, err)
	}
	if err := unpack(ctx, archive, dir, n.Limits); err != nil {
		return nil, fmt.Errorf("checkpoint image %s: %w", r.Image, err)
	}
	if err := n.Restores.ReleaseView(ctx, r); err != nil {
		return nil, fmt.Errorf("checkpoint image %s: %w", r.Image, err)
	}
	c, err := checkpoint.Open(dir, n.Limits)
	if err != nil {
		return nil, fmt.Errorf("checkpoint image %s: %w", r.Image, err)
	}
	return c, nil
}

// archiveSource is a checkpoint archive on the node. It is unpacked once, into
// a directory that only the plugin uses.
type archiveSource struct {
	node *Node
	path string
	dir  string // below which it has to be, empty for anywhere
}

func (s *archiveSource) name() string { return s.path }

func (s *archiveSource) admit() (err error) {
	s.dir, err = s.node.Policy.Archive(s.path)
	return err
}

func (s *archiveSource) open(ctx context.Context, _ *pod, r *restore.Record) (*checkpoint.Checkpoint, error) {
	if err := s.node.Restores.Dirs.Make(r.ID); err != nil {
		return nil, err
	}
	dir := s.node.Restores.Dirs.Archive(r.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("checkpoint archive %s: %w", s.path, err)
	}
	if err := checkpoint.UnpackBelow(ctx, s.dir, s.path, dir, s.node.Limits); err != nil {
		return nil, err // names the archive
	}
	c, err := checkpoint.Open(dir, s.node.Limits)
	if err != nil {
		return nil, fmt.Errorf("checkpoint archive %s: %w", s.path, err)
	}
	return c, nil
}
