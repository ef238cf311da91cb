package cri

import (
	"context"

	"github.com/containerd/log"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/recovery"
)

// Checkpoint images of which there are containers are shown as pinned: the kubelet's garbage collection knows one image
// of a container, which is the base image, and would remove the other one, which the restart of the container needs
// again. (kubernetes: pkg/kubelet/images/image_gc_manager.go.)

// ListImages lists the node's images, with the pins.
func (s *Images) ListImages(ctx context.Context, r *runtime.ListImagesRequest) (_ *runtime.ListImagesResponse,
	retErr error) {
	defer recovery.Into(ctx, &retErr, "ListImages")
	resp, err := s.ImageServiceServer.ListImages(ctx, r)
	if err == nil {
		s.pin(ctx, resp.GetImages()...)
	}
	return resp, err
}

// StreamImages is ListImages for many images.
func (s *Images) StreamImages(r *runtime.StreamImagesRequest,
	stream grpc.ServerStreamingServer[runtime.StreamImagesResponse]) (retErr error) {
	ctx := stream.Context()
	defer recovery.Into(ctx, &retErr, "StreamImages")
	return s.ImageServiceServer.StreamImages(r, pinningStream{ServerStreamingServer: stream, images: s})
}

type pinningStream struct {
	grpc.ServerStreamingServer[runtime.StreamImagesResponse]
	images *Images
}

func (p pinningStream) Send(resp *runtime.StreamImagesResponse) error {
	p.images.pin(p.Context(), resp.GetImages()...)
	return p.ServerStreamingServer.Send(resp)
}

// ImageStatus returns one image, with its pin.
func (s *Images) ImageStatus(ctx context.Context, r *runtime.ImageStatusRequest) (_ *runtime.ImageStatusResponse,
	retErr error) {
	defer recovery.Into(ctx, &retErr, "ImageStatus")
	resp, err := s.ImageServiceServer.ImageStatus(ctx, r)
	if err == nil && resp.GetImage() != nil {
		s.pin(ctx, resp.GetImage())
	}
	return resp, err
}

// pin marks those of the images that are in use.
func (s *Images) pin(ctx context.Context, images ...*runtime.Image) {
	if len(images) == 0 {
		return
	}
	used, err := s.node.users.images(ctx)
	if err != nil {
		log.G(ctx).WithError(err).Warn("cannot tell which checkpoint images are in use, none is shown as pinned")
		return
	}
	if len(used) == 0 {
		return
	}
	for _, img := range images {
		if used[img.GetId()] {
			img.Pinned = true
		}
	}
}
