package harness

import (
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pull pulls an image through CRI and returns the image reference (its ID) that
// kubelet would use from then on.
func (n *Node) Pull(ref string) string {
	n.t.Helper()
	return n.PullAs(ref, "", "")
}

// PullAs is Pull with credentials; an empty user means none.
func (n *Node) PullAs(ref, user, password string) string {
	n.t.Helper()
	id, err := n.TryPull(ref, user, password)
	if err != nil {
		n.t.Fatalf("harness: pull %s: %v", ref, err)
	}
	return id
}

// TryPull is PullAs for pulls that may fail.
func (n *Node) TryPull(ref, user, password string) (string, error) {
	n.t.Helper()
	req := &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}}
	if user != "" {
		req.Auth = &runtime.AuthConfig{Username: user, Password: password}
	}
	ctx, cancel := callContext(n.t)
	defer cancel()
	resp, err := n.Images().PullImage(ctx, req)
	if err != nil {
		return "", err
	}
	return resp.GetImageRef(), nil
}

// ImageStatus returns what CRI knows about an image, nil when it is absent.
func (n *Node) ImageStatus(ref string) *runtime.Image {
	n.t.Helper()
	ctx, cancel := callContext(n.t)
	defer cancel()
	resp, err := n.Images().ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref}})
	if err != nil {
		n.t.Fatalf("harness: status of image %s: %v", ref, err)
	}
	return resp.GetImage()
}

// RemoveImage removes an image, with all its names, through CRI.
func (n *Node) RemoveImage(ref string) {
	n.t.Helper()
	if err := n.tryRemoveImage(ref); err != nil {
		n.t.Fatalf("harness: remove image %s: %v", ref, err)
	}
}

func (n *Node) tryRemoveImage(ref string) error {
	ctx, cancel := callContext(n.t)
	defer cancel()
	_, err := n.Images().RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	return err
}

// removeImagesExcept removes the images, and the names of images, that CRI shows and
// the baseline does not have. A name that CRI does not show stays, to be reported.
func (n *Node) removeImagesExcept(baseline Inventory) error {
	ctx, cancel := callContext(n.t)
	defer cancel()
	list, err := n.Images().ListImages(ctx, &runtime.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	var errs []error
	for _, image := range list.GetImages() {
		if !baseline.has(KindImage, image.GetId()) {
			if err := n.tryRemoveImage(image.GetId()); err != nil {
				errs = append(errs, fmt.Errorf("remove image %s: %w", image.GetId(), err))
			}
			continue
		}
		// CRI's RemoveImage would take the baseline's names with it.
		for _, name := range append(image.GetRepoTags(), image.GetRepoDigests()...) {
			if baseline.has(KindImage, name) {
				continue
			}
			err := n.Client().ImageService().Delete(namespaces.WithNamespace(ctx, k8sNamespace), name,
				images.SynchronousDelete())
			if err != nil && !errdefs.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("remove image name %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}
