package checkpoint

import (
	"fmt"
	"regexp"
	"strings"

	_ "crypto/sha256" // for digest.Digest.Validate
	_ "crypto/sha512"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// BaseImage is the image of the container that was checkpointed.
type BaseImage struct {
	// Name is the image name as the user wrote it. It is for messages only and
	// is never resolved: a tag may mean another image by now.
	Name string
	// Reference identifies the image by content: "repository@digest", or
	// "sha256:<hex>" for a bare image ID, which is the digest of the image
	// config and cannot be pulled.
	Reference string
}

var imageID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{64}$`)

// isID reports whether a reference from contentReference is a bare image ID.
func isID(ref string) bool { return strings.HasPrefix(ref, "sha256:") }

// contentReference normalises a reference by content, as containerd does with
// names. field is where the value comes from.
func contentReference(value, field string) (string, error) {
	// Before it is matched, which takes long for a long text.
	if len(value) > maxText {
		return "", fmt.Errorf("%s: %s: base image %s has %d bytes, at most %d are allowed: %w",
			metadata.ConfigDumpFile, field, quote(value), len(value), maxText, errdefs.ErrInvalidArgument)
	}
	if imageID.MatchString(value) {
		return "sha256:" + strings.TrimPrefix(value, "sha256:"), nil
	}
	// A tag beside the digest decides nothing, ParseDockerRef drops it.
	named, err := reference.ParseDockerRef(value)
	if err != nil {
		return "", fmt.Errorf("%s: %s: base image %s is no image reference: %s: %w",
			metadata.ConfigDumpFile, field, quote(value), clip(err.Error()), errdefs.ErrInvalidArgument)
	}
	canonical, ok := named.(reference.Canonical)
	if !ok {
		return "", fmt.Errorf("%s: %s: base image %s has no digest: a tag does not say which image the container ran: %w",
			metadata.ConfigDumpFile, field, quote(value), errdefs.ErrInvalidArgument)
	}
	if err := canonical.Digest().Validate(); err != nil {
		return "", fmt.Errorf("%s: %s: base image %s: %s: %w",
			metadata.ConfigDumpFile, field, quote(value), clip(err.Error()), errdefs.ErrInvalidArgument)
	}
	return canonical.String(), nil
}

func noBase(field string) error {
	return fmt.Errorf("%s: %s: base image is missing: take the checkpoint from a container that was created from an "+
		"image: %w",
		metadata.ConfigDumpFile, field, errdefs.ErrInvalidArgument)
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
