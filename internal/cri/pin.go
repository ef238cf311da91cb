package cri

import (
	"context"

	"github.com/containerd/log"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// ListImages lists the node's images. Checkpoint images of which there are containers are shown as pinned: the kubelet's
// garbage collection knows one image of a container, which is the base image, and would remove the
// other one, which the restart of the container needs again. (kubernetes: pkg/kubelet/images/image_gc_manager.go.)
func (s *Images) ListImages(ctx context.Context, r *runtime.ListImagesRequest) (_ *runtime.ListImagesResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "ListImages")
	resp, err := s.ImageServiceServer.ListImages(ctx, r)
	if err != nil || len(resp.GetImages()) == 0 {
		return resp, err
	}
	list, err := s.runtime.ListContainers(ctx, &runtime.ListContainersRequest{})
	if err != nil {
		log.G(ctx).WithError(err).Warn("cannot tell which checkpoint images are in use, none is shown as pinned")
		return resp, nil
	}
	used := map[string]bool{}
	for _, c := range list.GetContainers() {
		if id, ok := c.GetAnnotations()[restore.AnnotationImageID]; ok {
			used[id] = true
		}
	}
	for _, img := range resp.GetImages() {
		if used[img.GetId()] {
			img.Pinned = true
		}
	}
	return resp, nil
}
