package cri

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/dump"
	"github.com/cri-restore/cri-restore/internal/image"
	"github.com/cri-restore/cri-restore/internal/policy"
)

// imageTarget makes a checkpoint image in containerd's image store. CRIU dumps into what becomes the
// unpacked image, so that only its layer has to be written.
type imageTarget struct {
	runtime     *Runtime
	name        string
	snapshotter string
	compression image.Compression
	key         string
}

func (s *Runtime) imageTarget(ctx context.Context, name string, c *containers.Container,
	compression policy.Compression) (target, error) {
	if err := s.node.Policy.CheckpointImage(name); err != nil {
		return nil, err
	}
	name, err := image.NormalName(name)
	if err != nil {
		return nil, err
	}
	if _, err := s.node.Client.ImageService().Get(ctx, name); err == nil {
		return nil, existing(name)
	}
	if err := os.MkdirAll(s.node.Restores.Dirs.Root, 0o700); err != nil {
		return nil, err
	}
	t := &imageTarget{runtime: s, name: name, snapshotter: c.Snapshotter, compression: image.Uncompressed}
	if compression == policy.Zstd {
		t.compression = image.Zstd
	}
	return t, nil
}

func existing(name string) error {
	return fmt.Errorf("image %q exists: remove it, or choose another name or tag: %w", name, errdefs.ErrAlreadyExists)
}

func (t *imageTarget) place() (dir, name string) { return t.runtime.node.Restores.Dirs.Root, "image" }

func (t *imageTarget) prepare(ctx context.Context, d *dump.Dump) (string, error) {
	t.key = "cri-checkpoint-" + d.ID
	mounts, err := t.runtime.node.Client.SnapshotService(t.snapshotter).Prepare(ctx, t.key, "")
	if err != nil {
		return "", fmt.Errorf("snapshot for checkpoint image: %w", err)
	}
	dir, err := d.Mount("image")
	if err != nil {
		return "", err
	}
	if err := mount.All(mounts, dir); err != nil {
		return "", fmt.Errorf("mount snapshot of checkpoint image: %w", err)
	}
	return dir, nil
}

func (t *imageTarget) finish(ctx context.Context, _ *dump.Dump, dir string) error {
	var (
		client = t.runtime.node.Client
		desc   images.Image
	)
	c, err := checkpoint.Open(dir, t.runtime.node.Limits)
	if err != nil {
		return err
	}
	desc.Name = t.name
	desc.Target, err = image.BuildCheckpoint(ctx, client.ContentStore(), c, image.BuildOptions{Compression: t.compression})
	c.Close()
	if err != nil {
		return err
	}
	// Not detached: what was written must be in the snapshot when it is committed.
	if err := mount.UnmountAll(dir, 0); err != nil {
		return fmt.Errorf("unmount snapshot of checkpoint image: %w", err)
	}
	if err := image.Adopt(ctx, client, desc, t.snapshotter, t.key); err != nil {
		return err
	}
	if _, err := client.ImageService().Create(ctx, desc); err != nil {
		if errdefs.IsAlreadyExists(err) {
			return existing(t.name)
		}
		return fmt.Errorf("store checkpoint image %s: %w", t.name, err)
	}
	err = image.Await(ctx, client.ContentStore(), t.runtime.imageStatus, desc)
	if ctx.Err() != nil {
		// Whoever has asked does not know of it.
		return errors.Join(ctx.Err(), t.withdraw(ctx))
	}
	return err
}

// withdraw removes an image that was just created, whether CRI has taken it up or not.
func (t *imageTarget) withdraw(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	_, err := t.runtime.images.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: t.name}})
	if derr := t.runtime.node.Client.ImageService().Delete(ctx, t.name); derr != nil && !errdefs.IsNotFound(derr) {
		err = errors.Join(err, derr)
	}
	if err != nil {
		return fmt.Errorf("remove checkpoint image %s again: %w", t.name, err)
	}
	return nil
}

// imageStatus asks containerd's CRI service, in this process.
func (s *Runtime) imageStatus(ctx context.Context, r *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse,
	error) {
	resp, err := s.images.ImageStatus(ctx, r)
	return resp, errgrpc.ToGRPC(err)
}
