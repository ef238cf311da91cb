package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/lru"
)

const (
	// cacheSize bounds the number of images whose annotations are remembered:
	// several times the 50 images that a kubelet reports for a node.
	cacheSize = 1024
	// maxDocument bounds an index, manifest or config that is read to find
	// annotations, in bytes. It is the limit of containerd's own resolver
	// (core/remotes/docker.MaxManifestSize) doubled, as configs are not bound by it.
	maxDocument = 8 << 20
)

// ImageStatuser is the part of the CRI image service that knows which images
// are ready for CRI. containerd answers it from memory.
type ImageStatuser interface {
	ImageStatus(context.Context, *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error)
}

// Image is a checkpoint image as found in the image store.
type Image struct {
	// Name in the image store: the reference that the request names, or the ID, by which containerd's CRI keeps an entry
	// for every image that it has, as long as it has it.
	Name string
	// ID is the CRI image ID, the digest of the image's config.
	ID string
	// Target is the manifest or index that the entry points to.
	Target ocispec.Descriptor
	// References are the names by which the CRI knows the image, with a tag or a
	// digest, normalised. There may be none.
	References []string
	// Annotations are those that say that this is a checkpoint image and what it
	// holds. They are a hint, nothing more.
	Annotations map[string]string
}

// Called is what the user calls the image: what the pod spec says if the request tells, as the kubelet sends an ID
// and, beside it, the user's word.
func (i *Image) Called(asked *runtime.ImageSpec) string {
	if name := asked.GetUserSpecifiedImage(); name != "" {
		return name
	}
	if asked.GetImage() != i.ID {
		return asked.GetImage()
	}
	if i.Name != i.ID || len(i.References) == 0 {
		return i.Name
	}
	return i.References[0]
}

// Look says whether an image holds a checkpoint. It is asked of images with the annotations of one.
type Look func(context.Context, *Image) (bool, error)

// Detector tells checkpoint images from ordinary ones: those with annotations that say so, of the image's descriptor,
// index or manifest, or leniently labels of its config, and with the content of a checkpoint. Annotations are cheap to
// read, and anybody's word; the content decides. What it has read is cached by digest.
type Detector struct {
	status   ImageStatuser
	store    images.Store
	provider content.Provider
	platform platforms.MatchComparer
	hints    *lru.Cache // digest.Digest of the target to map[string]string, nil for an ordinary image
	contents *lru.Cache // image ID, which is a digest of what the image holds, to bool
}

// NewDetector returns a detector for the images of this node's platform.
func NewDetector(status ImageStatuser, store images.Store, provider content.Provider) *Detector {
	return &Detector{
		status:   status,
		store:    store,
		provider: provider,
		platform: platforms.Default(),
		hints:    lru.New(cacheSize),
		contents: lru.New(cacheSize),
	}
}

// Detect returns the checkpoint image that a CRI request means on this node. It returns nil without an error when there
// is no such image, when it is an ordinary one, or when its annotations cannot be read:
// all of these are for containerd to answer. An error is that of ctx, or of look.
//
// Several references can have one image ID, and not all of them the annotations. An image that the request names by a
// reference, or by its ID and beside that the reference that the user has written, is judged by that one; an image of
// which there is only the ID by all its references.
//
// After the first time for an image this costs one ImageStatus, which is
// answered from memory, and a Get of the image store for each of those references.
func (d *Detector) Detect(ctx context.Context, asked *runtime.ImageSpec, look Look) (*Image, error) {
	img, err := d.hinted(ctx, asked)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("look for checkpoint image %q: %w", asked.GetImage(), context.Cause(ctx))
		}
		log.G(ctx).WithError(err).WithField("image", asked.GetImage()).
			Debug("image cannot be inspected, taking it for an ordinary one")
		return nil, nil
	}
	if img == nil {
		return nil, nil
	}
	holds, known := d.contents.Get(img.ID)
	if !known {
		if holds, err = look(ctx, img); err != nil {
			return nil, fmt.Errorf("look for a checkpoint in image %q: %w", img.Called(asked), err)
		}
		d.contents.Add(img.ID, holds)
		if !holds.(bool) {
			log.G(ctx).WithField("image", img.Called(asked)).
				Warn("image has the annotations of a checkpoint but holds none, taking it for an ordinary image")
		}
	}
	if !holds.(bool) {
		return nil, nil
	}
	return img, nil
}

// hinted returns the image if its annotations say that it is a checkpoint.
func (d *Detector) hinted(ctx context.Context, asked *runtime.ImageSpec) (*Image, error) {
	if asked.GetImage() == "" {
		return nil, nil
	}
	known, err := imageStatus(ctx, d.status, asked.GetImage())
	if err != nil || known == nil {
		return nil, err
	}
	var errs []error
	for _, name := range judged(asked, known) {
		entry, err := d.store.Get(ctx, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		annotations, err := d.annotations(ctx, entry.Target)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if annotations != nil {
			return &Image{
				Name:        entry.Name,
				ID:          known.GetId(),
				Target:      entry.Target,
				References:  references(known),
				Annotations: annotations,
			}, nil
		}
	}
	return nil, errors.Join(errs...)
}

func references(known *runtime.Image) []string {
	return slices.Concat(known.GetRepoTags(), known.GetRepoDigests())
}

// judged returns the names in the image store by which an image is judged: the reference that was asked for, or all
// that it has.
func judged(asked *runtime.ImageSpec, known *runtime.Image) []string {
	all := references(known)
	for _, word := range []string{asked.GetImage(), asked.GetUserSpecifiedImage()} {
		// As the CRI reads it (containerd: internal/cri/server/images, LocalResolve).
		if named, err := reference.ParseDockerRef(word); err == nil && slices.Contains(all, named.String()) {
			return []string{named.String()}
		}
	}
	return append([]string{known.GetId()}, all...)
}

// annotations returns those of the target that speak of a checkpoint, or nil if
// none of them makes it a checkpoint image. The descriptor's own are part of the
// image store's entry, not of what the digest names: they are never cached.
func (d *Detector) annotations(ctx context.Context, target ocispec.Descriptor) (map[string]string, error) {
	var found map[string]string
	if cached, ok := d.hints.Get(target.Digest); ok {
		found, _ = cached.(map[string]string)
	} else {
		var err error
		if found, err = d.read(ctx, target); err != nil {
			return nil, err
		}
		d.hints.Add(target.Digest, found)
	}
	all := maps.Clone(found)
	if len(target.Annotations) > 0 {
		all = merge(all, target.Annotations)
	}
	if !isCheckpoint(all) {
		return nil, nil
	}
	return all, nil
}

// read collects the annotations of the index, of the descriptor in it that is
// for this platform, and of the manifest, and the labels of the config.
func (d *Detector) read(ctx context.Context, target ocispec.Descriptor) (map[string]string, error) {
	var (
		found    map[string]string
		provider = bounded{d.provider}
	)
	collect := func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		var doc struct {
			Annotations map[string]string `json:"annotations"`
			Config      json.RawMessage   `json:"config"`
		}
		switch {
		case images.IsIndexType(desc.MediaType), images.IsManifestType(desc.MediaType):
		case images.IsConfigType(desc.MediaType) && !isCheckpoint(found):
		default:
			return nil, images.ErrSkipDesc
		}
		blob, err := content.ReadBlob(ctx, provider, desc)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(blob, &doc); err != nil {
			return nil, fmt.Errorf("%s %s: %w", desc.MediaType, desc.Digest, err)
		}
		if images.IsConfigType(desc.MediaType) {
			var config ocispec.ImageConfig
			if len(doc.Config) > 0 {
				if err := json.Unmarshal(doc.Config, &config); err != nil {
					return nil, fmt.Errorf("%s %s: %w", desc.MediaType, desc.Digest, err)
				}
			}
			// The image's own annotations win over a label.
			found = merge(merge(nil, config.Labels), found)
			return nil, nil
		}
		if desc.Digest != target.Digest {
			found = merge(found, desc.Annotations)
		}
		found = merge(found, doc.Annotations)
		return nil, nil
	}
	children := images.LimitManifests(images.FilterPlatforms(images.ChildrenHandler(provider), d.platform), d.platform, 1)
	if err := images.Walk(ctx, images.Handlers(images.HandlerFunc(collect), children), target); err != nil {
		return nil, err
	}
	return found, nil
}

// imageStatus returns nil for an image that the CRI does not have.
func imageStatus(ctx context.Context, s ImageStatuser, ref string) (*runtime.Image, error) {
	resp, err := s.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref}})
	if err != nil {
		return nil, err
	}
	return resp.GetImage(), nil
}

// bounded refuses to read documents of unusual size, which containerd's helpers
// would read into memory whole.
type bounded struct{ content.Provider }

func (b bounded) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	ra, err := b.Provider.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	if ra.Size() > maxDocument {
		_ = ra.Close()
		return nil, fmt.Errorf("%s %s has %d bytes, more than %d: %w",
			desc.MediaType, desc.Digest, ra.Size(), int64(maxDocument), errdefs.ErrOutOfRange)
	}
	return ra, nil
}
