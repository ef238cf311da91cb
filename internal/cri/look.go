package cri

import (
	"context"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/image"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// looker looks into images, on any node: it needs nothing of what a restore does.
type looker struct {
	client       *containerd.Client
	snapshotters []string
}

// inPod looks into an image for a container of that pod. An image that is unpacked nowhere yet is unpacked where
// containerd would do it next.
func (l looker) inPod(s runtime.RuntimeServiceServer, pod string) image.Look {
	return func(ctx context.Context, img *image.Image) (bool, error) {
		snapshotter := unpackedIn(ctx, l.client, l.snapshotters, img)
		if snapshotter == "" {
			snapshotter = l.ofPod(ctx, s, pod)
		}
		return l.look(ctx, img, snapshotter)
	}
}

// pulled looks into an image that was just pulled.
func (l looker) pulled(ctx context.Context, img *image.Image) (bool, error) {
	snapshotter := unpackedIn(ctx, l.client, l.snapshotters, img)
	if snapshotter == "" {
		return false, unpackedNowhere(img)
	}
	return l.look(ctx, img, snapshotter)
}

// ofPod is the snapshotter of a pod, or else containerd's default: what is wrong with the pod is for containerd to say.
func (l looker) ofPod(ctx context.Context, s runtime.RuntimeServiceServer, pod string) string {
	if resp, err := s.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: pod}); err == nil {
		if c, err := l.client.ContainerService().Get(ctx, resp.GetStatus().GetId()); err == nil && c.Snapshotter != "" {
			return c.Snapshotter
		}
	}
	for _, name := range append([]string{defaults.DefaultSnapshotter}, l.snapshotters...) {
		if l.client.SnapshotService(name) != nil {
			return name
		}
	}
	return ""
}

// look mounts a view of the image for a moment, where containerd itself removes it after a crash.
func (l looker) look(ctx context.Context, img *image.Image, snapshotter string) (holds bool, err error) {
	views := l.client.SnapshotService(snapshotter)
	if views == nil {
		return false, fmt.Errorf("snapshotter %q: %w", snapshotter, errdefs.ErrNotFound)
	}
	id := restore.NewID()
	key := restore.SnapshotKey(id)
	labels := map[string]string{restore.LabelID: id}
	lease, err := l.client.LeasesService().Create(ctx, leases.WithID(key), leases.WithExpiration(leaseTime),
		leases.WithLabels(labels))
	if err != nil {
		return false, fmt.Errorf("lease to look into an image: %w", err)
	}
	var undo undoList
	defer func() { undo.run(ctx) }()
	undo.add("release lease", func(ctx context.Context) error {
		return ignoreAbsent(l.client.LeasesService().Delete(ctx,
			lease))
	})
	undo.add("remove view", func(ctx context.Context) error { return ignoreAbsent(views.Remove(ctx, key)) })
	mounts, err := image.View(leases.WithLease(ctx, lease.ID), l.client, img, snapshotter, key, labels)
	if err != nil {
		return false, err
	}
	err = mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		if holds, err = checkpoint.Found(root); err != nil || holds {
			return err
		}
		archive, err := checkpoint.Nested(root)
		holds = archive != ""
		return err
	})
	return holds, err
}

func ignoreAbsent(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// unpackedIn returns the snapshotter that a pull has unpacked the image in, nothing if there is none.
func unpackedIn(ctx context.Context, client *containerd.Client, snapshotters []string, img *image.Image) string {
	i := containerd.NewImage(client, images.Image{Name: img.Name, Target: img.Target})
	for _, name := range snapshotters {
		ok, err := i.IsUnpacked(ctx, name)
		if err != nil {
			log.G(ctx).WithError(err).WithField("snapshotter", name).Debug("cannot look for checkpoint image")
			continue
		}
		if ok {
			return name
		}
	}
	return ""
}

func unpackedNowhere(img *image.Image) error {
	return fmt.Errorf("image %s is unpacked in no snapshotter: %w", img.Name, errdefs.ErrFailedPrecondition)
}
