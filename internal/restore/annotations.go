package restore

import (
	"time"

	"github.com/cri-restore/cri-restore/internal/policy"
)

// Annotations that a restored container carries in CRI, in the order of their use.
const (
	// AnnotationPrefix is the prefix of all annotations to and from the plugin.
	AnnotationPrefix = policy.AnnotationPrefix
	// AnnotationID is the ID of the restore.
	AnnotationID = AnnotationPrefix + "id"
	// AnnotationImage is the name of the checkpoint image, or the archive's path.
	AnnotationImage = AnnotationPrefix + "checkpoint-image"
	// AnnotationImageDigest is the digest of the checkpoint image.
	AnnotationImageDigest = AnnotationPrefix + "checkpoint-digest"
	// AnnotationImageID is the CRI's ID of the checkpoint image.
	AnnotationImageID = AnnotationPrefix + "checkpoint-image-id"
	// AnnotationBase is the reference of the base image.
	AnnotationBase = AnnotationPrefix + "base-image"
	// AnnotationCheckpointedAt is when the checkpoint was made (RFC 3339).
	AnnotationCheckpointedAt = AnnotationPrefix + "checkpointed-at"
	// AnnotationProducer is the engine that made the checkpoint.
	AnnotationProducer = AnnotationPrefix + "producer"
	// AnnotationFresh says why a container was started from its base image and not restored.
	AnnotationFresh = AnnotationPrefix + "started-fresh"
)

// Annotations returns what the record tells the users of the container.
func (r *Record) Annotations() map[string]string {
	a := map[string]string{
		AnnotationID:       r.ID,
		AnnotationImage:    r.Image,
		AnnotationBase:     r.BaseImage,
		AnnotationProducer: r.Producer,
	}
	if r.ImageDigest != "" {
		a[AnnotationImageDigest] = r.ImageDigest
	}
	if r.ImageID != "" {
		a[AnnotationImageID] = r.ImageID
	}
	if !r.CheckpointedAt.IsZero() {
		a[AnnotationCheckpointedAt] = r.CheckpointedAt.UTC().Format(time.RFC3339)
	}
	return a
}
