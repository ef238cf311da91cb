package policy

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// ImageLocation is what the location of a new checkpoint begins with that is to become an image; its name follows.
const ImageLocation = "oci-image:"

// Compression of a new checkpoint: of the whole archive, or of the image's layer.
type Compression string

const (
	// Uncompressed is the fastest. The zero value stands for it too.
	Uncompressed Compression = "none"
	// Zstd is zstd at its fastest level.
	Zstd Compression = "zstd"
)

// CheckpointImage admits a new checkpoint as an image of that name. The error is of class errdefs.ErrPermissionDenied.
func (p *Policy) CheckpointImage(name string) error {
	if p.checkpointImages {
		return nil
	}
	return fmt.Errorf("location %q: checkpoints are not allowed to become images on this node: "+
		"give the path of an archive, or set allow_checkpoint_images = true: %w", ImageLocation+name,
		errdefs.ErrPermissionDenied)
}

func checkCompression(what string, c Compression) error {
	if c == "" || c == Uncompressed || c == Zstd {
		return nil
	}
	return fmt.Errorf("%s: %q is none of %q, %q", what, c, Uncompressed, Zstd)
}
