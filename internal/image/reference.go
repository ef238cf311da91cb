package image

import (
	"fmt"
	"regexp"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// SameRegistry reports whether two image references name repositories of one
// registry host, port included. An image ID or what is no reference names none.
func SameRegistry(a, b string) bool {
	host := registryHost(a)
	return host != "" && host == registryHost(b)
}

// registryHost returns "" if ref is no reference to a repository.
func registryHost(ref string) string {
	if _, err := digest.Parse(ref); err == nil {
		return "" // it would also parse as repository docker.io/library/sha256
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}

// Credentials returns auth, with which the image imageRef is pulled, if it may
// be shown to the registry of the base image too: if that is the same host. The
// reference of the base image comes from the checkpoint, that is, from a
// stranger, and would otherwise send the credentials where it likes.
func Credentials(auth *runtime.AuthConfig, imageRef string, base checkpoint.BaseImage) *runtime.AuthConfig {
	ref := base.Reference
	if registryHost(ref) == "" {
		ref = base.Name // by which it is asked for
	}
	if auth == nil || !SameRegistry(imageRef, ref) {
		return nil
	}
	return auth
}

// baseReference is what a checkpoint says its base image is: a manifest in a
// repository, or (repository empty) only the ID of an image.
type baseReference struct {
	text   string // repository@digest, normalised, or the ID
	digest digest.Digest
	bareID bool
}

var hexID = regexp.MustCompile(`^[a-f0-9]{64}$`)

// parseBase drops a tag beside the digest. It accepts a name with nothing but a
// tag under no circumstances: what the tag means today need not be what the
// process was running from.
func parseBase(base checkpoint.BaseImage) (baseReference, error) {
	ref := base.Reference
	if ref == "" {
		return baseReference{}, fmt.Errorf("the checkpoint does not say which base image (named %q) it was made from by "+
			"digest; "+
			"make the checkpoint again from an image that was pulled from a registry: %w", base.Name,
			errdefs.ErrFailedPrecondition)
	}
	if hexID.MatchString(ref) {
		ref = digest.NewDigestFromEncoded(digest.SHA256, ref).String()
	}
	if id, err := digest.Parse(ref); err == nil {
		return baseReference{text: ref, digest: id, bareID: true}, nil
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return baseReference{}, fmt.Errorf("base image %q of the checkpoint: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	canonical, ok := named.(reference.Canonical)
	if !ok {
		return baseReference{}, fmt.Errorf("base image %q of the checkpoint has no digest, and what its tag means may "+
			"have changed since; "+
			"make the checkpoint again from an image that was pulled from a registry: %w", ref, errdefs.ErrFailedPrecondition)
	}
	if canonical, err = reference.WithDigest(reference.TrimNamed(named), canonical.Digest()); err != nil {
		return baseReference{}, fmt.Errorf("base image %q of the checkpoint: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	return baseReference{text: canonical.String(), digest: canonical.Digest()}, nil
}

// NormalName returns the name for an image as containerd and the CRI write it:
// with registry and tag. The error is of class errdefs.ErrInvalidArgument.
func NormalName(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	if _, ok := named.(reference.Digested); ok {
		return "", fmt.Errorf("image name %q has a digest, which only the finished image has; give a tag: %w", name,
			errdefs.ErrInvalidArgument)
	}
	return reference.TagNameOnly(named).String(), nil
}
