package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/singleflight"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// ImageService is the part of the CRI image service that base images need:
// containerd's, with its registry configuration, behind the decorator.
type ImageService interface {
	ImageStatuser
	PullImage(context.Context, *runtime.PullImageRequest) (*runtime.PullImageResponse, error)
}

// Bases makes the base images of checkpoints available on this node.
type Bases struct {
	// NeverPull makes it do with the images that the node has. It is set before the first use.
	NeverPull bool
	// Admit says whether an image may be a base image. It gets what the checkpoint calls it, and
	// the names by which the node knows it, or the reference by which it would be pulled. Nil admits all. It is
	// set before the first use.
	Admit func(called string, names ...string) error
	// HostDirs returns the directories with the node's registry configuration (hosts.toml), separated as in PATH. Nil:
	// what a tag means is not asked. It is set before the first use.
	HostDirs func() string

	inner    ImageService
	provider content.Provider
	platform platforms.MatchComparer
	timeout  time.Duration
	pulls    singleflight.Group
}

// NewBases returns the base images of inner, whose content is in provider.
// The timeout is that of a whole pull, of all layers and their unpacking; none if it is 0.
//
// The image store is not asked: a digest is resolved by content alone, so that no
// name, which anybody may have given, is trusted.
func NewBases(inner ImageService, provider content.Provider, timeout time.Duration) *Bases {
	return &Bases{
		inner:    inner,
		provider: bounded{provider},
		platform: platforms.Default(),
		timeout:  timeout,
	}
}

// Request is a base image that somebody needs.
type Request struct {
	// Base is what the checkpoint says.
	Base checkpoint.BaseImage
	// Auth are the credentials for a pull, nil for those of the node's registry
	// configuration. See [Credentials] for whether they may be used.
	Auth *runtime.AuthConfig
	// SandboxConfig and RuntimeHandler decide in which snapshotter a pulled image
	// is unpacked.
	SandboxConfig  *runtime.PodSandboxConfig
	RuntimeHandler string
}

// Base is a base image that this node has.
type Base struct {
	// ID is the CRI image ID, for the CreateContainer request.
	ID string
	// Reference is repository@digest, or the ID if the checkpoint knows no more.
	Reference string
	// Digest is the one in Reference.
	Digest digest.Digest
}

// Ensure returns when the CRI has the base image. It pulls it if it is absent:
// by digest and never by a tag, so that nothing is tagged on behalf of a
// checkpoint (CVE-2026-50195). Everybody who needs the same image with the same
// credentials waits for one pull, which goes on when a waiter's context ends.
// A present image that the pod's snapshotter has not got is unpacked by
// containerd when it creates the container.
//
// Errors: errdefs.ErrFailedPrecondition if the checkpoint's word is not enough to find the image, the image is absent
// and NeverPull is set, Admit's error, or what was found has another digest; errdefs.ErrInvalidArgument if it is no
// reference; the context's error; otherwise the class of the pull's error.
func (b *Bases) Ensure(ctx context.Context, r Request) (*Base, error) {
	ref, err := parseBase(r.Base)
	if err != nil {
		return nil, err
	}
	want := ""
	if ref.bareID {
		base, err := b.byID(ctx, ref)
		if !errdefs.IsNotFound(err) {
			return base, err
		}
		want = ref.text
		if ref, err = b.byName(ctx, ref, r); err != nil {
			return nil, err
		}
	}
	id, err := b.local(ctx, ref)
	if errdefs.IsNotFound(err) && b.Admit != nil {
		if err := b.Admit(ref.text, ref.text); err != nil {
			return nil, err
		}
	}
	if errdefs.IsNotFound(err) && b.NeverPull {
		return nil, neverPulled(ref.text)
	}
	if errdefs.IsNotFound(err) {
		id, err = b.pull(ctx, ref, r)
	}
	if err != nil {
		return nil, err
	}
	if want != "" && id != want {
		return nil, fmt.Errorf("base image %s is image %s, not %s; check the registry and its mirrors: %w", ref.text, id,
			want, errdefs.ErrFailedPrecondition)
	}
	if err := b.admit(ctx, ref, id); err != nil {
		return nil, err
	}
	return &Base{ID: id, Reference: ref.text, Digest: ref.digest}, nil
}

func neverPulled(ref string) error {
	return fmt.Errorf("base image %s is not on this node, and pull_base_images = false: pull it before the checkpoint "+
		"is restored: %w",
		ref, errdefs.ErrFailedPrecondition)
}

// unknownID is the error for an image of which nothing but the ID is known. It is not errdefs.ErrNotFound: the
// checkpoint image was found, and the caller's request becomes right once the node has been prepared.
func unknownID(ref baseReference, name string) error {
	return fmt.Errorf("base image %s (%q) is not on this node, and the checkpoint names it only by ID, which no "+
		"registry can be asked for; "+
		"pull %q on this node so that its ID is that one, or checkpoint a container whose image was pulled from a "+
		"registry: %w",
		ref.text, name, name, errdefs.ErrFailedPrecondition)
}

// admit asks by the names that the node has for the image: what the checkpoint calls it is a stranger's word,
// and anybody's image may be on the node already.
func (b *Bases) admit(ctx context.Context, ref baseReference, id string) error {
	if b.Admit == nil {
		return nil
	}
	img, err := imageStatus(ctx, b.inner, id)
	if err != nil {
		return fmt.Errorf("look up base image %s: %w", ref.text, err)
	}
	return b.Admit(ref.text, append(slices.Concat(img.GetRepoTags(), img.GetRepoDigests()), id)...)
}

// byID finds the image whose config has the digest. The error is of class errdefs.ErrNotFound if the node has it not.
func (b *Bases) byID(ctx context.Context, ref baseReference) (*Base, error) {
	img, err := imageStatus(ctx, b.inner, ref.text)
	if err != nil {
		return nil, fmt.Errorf("look up base image %s: %w", ref.text, err)
	}
	if img.GetId() != ref.text {
		return nil, fmt.Errorf("base image %s: %w", ref.text, errdefs.ErrNotFound)
	}
	if err := b.admit(ctx, ref, img.GetId()); err != nil {
		return nil, err
	}
	return &Base{ID: img.GetId(), Reference: ref.text, Digest: ref.digest}, nil
}

// local returns the ID of the image that ref names if the CRI has it, else an
// error of class errdefs.ErrNotFound. It follows digests only: from the one in
// ref to the manifest for this platform and to its config, whose digest is the ID.
func (b *Bases) local(ctx context.Context, ref baseReference) (string, error) {
	id, err := configDigest(ctx, b.provider, b.platform, ref.digest)
	if err != nil {
		return "", fmt.Errorf("base image %s: %w", ref.text, err)
	}
	img, err := imageStatus(ctx, b.inner, id)
	if err != nil {
		return "", fmt.Errorf("look up base image %s: %w", ref.text, err)
	}
	if img.GetId() != id {
		return "", fmt.Errorf("base image %s: its image %s is not known to the CRI: %w", ref.text, id, errdefs.ErrNotFound)
	}
	return id, nil
}

// configDigest returns the image ID that the index or manifest of that digest stands
// for on the platform.
func configDigest(ctx context.Context, provider content.Provider, platform platforms.MatchComparer,
	target digest.Digest) (string, error) {
	blob, err := content.ReadBlob(ctx, provider, ocispec.Descriptor{Digest: target, Size: -1})
	if err != nil {
		return "", err
	}
	desc := ocispec.Descriptor{Digest: target, Size: int64(len(blob))}
	var doc struct {
		MediaType string            `json:"mediaType"` // optional in OCI documents
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(blob, &doc); err != nil {
		return "", fmt.Errorf("%s is no image manifest: %w: %w", target, err, errdefs.ErrFailedPrecondition)
	}
	switch {
	case doc.MediaType != "":
		desc.MediaType = doc.MediaType
	case len(doc.Manifests) > 0:
		desc.MediaType = ocispec.MediaTypeImageIndex
	default:
		desc.MediaType = ocispec.MediaTypeImageManifest
	}
	if !images.IsManifestType(desc.MediaType) && !images.IsIndexType(desc.MediaType) {
		return "", fmt.Errorf("%s is no image manifest but %q: %w", target, desc.MediaType, errdefs.ErrFailedPrecondition)
	}
	config, err := images.Config(ctx, provider, desc, platform)
	if err != nil {
		return "", err
	}
	// Any JSON object reads as a manifest without a media type.
	if err := config.Digest.Validate(); err != nil {
		return "", fmt.Errorf("%s is no image manifest: its config has digest %q: %w: %w", target, config.Digest, err,
			errdefs.ErrFailedPrecondition)
	}
	return config.Digest.String(), nil
}
