package restore

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/google/uuid"

	"github.com/cri-restore/cri-restore/internal/origin"
	"github.com/cri-restore/cri-restore/internal/phase"
	"github.com/cri-restore/cri-restore/internal/policy"
)

const (
	// LabelID is the label with the ID of the restore, on the restored container,
	// on its view snapshot and on the lease that protects both while the
	// container is created.
	LabelID = origin.Label

	// extensionRecord is the container extension with the record.
	extensionRecord = policy.AnnotationPrefix + "record"

	// recordVersion is raised when an older plugin could no longer do the right
	// thing with a record.
	recordVersion = 1

	// gcRefSnapshot makes containerd's garbage collector keep a snapshot as long as the
	// container exists (containerd: docs/garbage-collection.md).
	gcRefSnapshot = "containerd.io/gc.ref.snapshot."
)

func init() {
	typeurl.Register(&Record{}, "github.com/cri-restore/cri-restore", "restore", "Record")
}

// Record says what a container is to be restored from. It is written once,
// when the container has been created, and updated when the restore has ended.
type Record struct {
	// Version is the version of the record's form.
	Version int `json:"version"`
	// ID names the restore and its directories.
	ID string `json:"id"`
	// Image is the name of the checkpoint image or the path of the archive.
	Image string `json:"image"`
	// ImageDigest is the digest of the checkpoint image's target, empty for an
	// archive.
	ImageDigest string `json:"imageDigest,omitempty"`
	// ImageID is the CRI's ID of the checkpoint image, empty for an archive.
	ImageID string `json:"imageID,omitempty"`
	// Snapshotter and SnapshotKey name the read-only view of the checkpoint
	// image. They are empty for an archive, which is unpacked in Dirs.Archive.
	Snapshotter string `json:"snapshotter,omitempty"`
	SnapshotKey string `json:"snapshotKey,omitempty"`
	// Namespace is the pod's. Who has the most restores waits for the others'.
	Namespace string `json:"namespace,omitempty"`
	// BaseImage is the reference of the base image by content.
	BaseImage string `json:"baseImage"`
	// Producer is the engine that made the checkpoint.
	Producer string `json:"producer"`
	// CheckpointedAt is when the checkpoint was made, as the checkpoint says.
	CheckpointedAt time.Time `json:"checkpointedAt"`
	// ImagesDigest is that of the CRIU images that were verified, see [Digest]. Empty in the record of
	// a plugin that did not verify them.
	ImagesDigest string `json:"imagesDigest,omitempty"`
	// Unpermitted is set when the verification found a file that the pod's user may not open, and only noted that.
	Unpermitted bool `json:"unpermitted,omitempty"`
	// TCP says what becomes of TCP connections that were established: nothing
	// ("refuse", or empty), "close", "local" or "restore".
	TCP string `json:"tcp,omitempty"`
	// Lazy is set when the memory may arrive after the processes run, where the node can do that.
	Lazy bool `json:"lazy,omitempty"`
	// Draining is set while processes run whose memory is still arriving: view, archive and work directory are
	// in use by the page server.
	Draining bool `json:"draining,omitempty"`
	// Drained is set, beside Draining, when all memory has arrived and what the page server needed is about to be
	// released, its result among it: without a result the memory would count as lost.
	Drained bool `json:"drained,omitempty"`
	// PagesLost says why memory of a lazy restore never arrived, for which the container was killed.
	PagesLost string `json:"pagesLost,omitempty"`
	// Command is what the command did that the pod wanted to run after the restore, nil if there was none, or it is not
	// done.
	Command *Command `json:"command,omitempty"`
	// Failure says why the restore failed when it was tried. Empty: it did not, or was cut short.
	Failure string `json:"failure,omitempty"`
	// Times are the times of the creation's parts, for the log of the start.
	Times phase.Times `json:"times,omitempty"`
	// Ended is set when the restore was tried, well or not: what it needed is no
	// longer there.
	Ended bool `json:"ended,omitempty"`
}

// NewID returns a new name for a restore.
func NewID() string { return uuid.NewString() }

// Origin is what the container is made for, noted when it is created. fresh says why it begins anew, if it does.
func (r *Record) Origin(fresh string) *origin.Origin {
	return &origin.Origin{ID: r.ID, Image: r.Image, ImageDigest: r.ImageDigest, ImageID: r.ImageID, Fresh: fresh}
}

// isID reports whether s is what NewID returns. uuid.Parse alone accepts other
// forms as well, some of them with any character before and after.
func isID(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

// SnapshotKey returns the key of the view snapshot of a restore.
func SnapshotKey(id string) string { return "cri-restore-" + id }

// Attach writes the record into the container, which the caller then stores.
func (r *Record) Attach(c *containers.Container) error {
	r.Version = recordVersion
	ext, err := typeurl.MarshalAny(r)
	if err != nil {
		return fmt.Errorf("restore record of container %s: %w", c.ID, err)
	}
	// The maps may be shared with another reader of the store's answer.
	c.Labels = cloned(c.Labels)
	c.Labels[LabelID] = r.ID
	if r.SnapshotKey != "" {
		// The whole key is ours as long as the container lives, not the pull's.
		if key := gcRefSnapshot + r.Snapshotter; r.Ended {
			delete(c.Labels, key)
		} else {
			c.Labels[key] = r.SnapshotKey
		}
	}
	c.Extensions = cloned(c.Extensions)
	c.Extensions[extensionRecord] = ext
	return nil
}

// Load reads the record of a container. A container without one is answered
// with errdefs.ErrNotFound; a record that this version does not understand
// with errdefs.ErrFailedPrecondition.
func Load(c *containers.Container) (*Record, error) {
	ext, ok := c.Extensions[extensionRecord]
	if !ok {
		return nil, fmt.Errorf("container %s has no restore record: %w", c.ID, errdefs.ErrNotFound)
	}
	var r Record
	if err := json.Unmarshal(ext.GetValue(), &r); err != nil {
		return nil, fmt.Errorf("restore record of container %s: %w: %w", c.ID, err, errdefs.ErrFailedPrecondition)
	}
	if r.Version > recordVersion {
		return nil, fmt.Errorf("restore record of container %s has version %d, this plugin knows up to %d: "+
			"use the newer plugin again, or remove the container: %w", c.ID, r.Version, recordVersion,
			errdefs.ErrFailedPrecondition)
	}
	if !isID(r.ID) {
		return nil, fmt.Errorf("restore record of container %s: ID %q is none of a restore: %w", c.ID, r.ID,
			errdefs.ErrFailedPrecondition)
	}
	return &r, nil
}

func cloned[V any](m map[string]V) map[string]V {
	if m = maps.Clone(m); m == nil {
		m = map[string]V{}
	}
	return m
}
