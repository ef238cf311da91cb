// Package origin is the note of what a container is made for: to go on from a checkpoint, or to begin anew because a
// checkpoint could not be restored.
//
// The note is written by the very Create by which the container comes to be in containerd's metadata store, in one
// write with it. So there is no moment, and no crash, in which a container that is to be restored looks like an
// ordinary one. And it is an extension: labels and annotations of a container can come from a request, from an image or
// from NRI, extensions only from clients of containerd, of which the kubelet's and the pods' side is none.
package origin

import (
	"context"
	"encoding/json"
	"maps"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cri-restore/cri-restore/internal/policy"
)

const (
	// Label is the label with the ID of the restore. It is there to find containers by, and believed of none without
	// an extension of this plugin: containers inherit the labels of their images.
	Label = policy.AnnotationPrefix + "id"

	extension = policy.AnnotationPrefix + "origin"
)

func init() {
	typeurl.Register(&Origin{}, "github.com/cri-restore/cri-restore", "origin", "Origin")
}

// Origin says what a container is made for. It is never changed.
type Origin struct {
	// ID names the restore.
	ID string `json:"id"`
	// Image is the name of the checkpoint image or the path of the archive.
	Image string `json:"image"`
	// ImageDigest is the digest of the checkpoint image's target, empty for an archive.
	ImageDigest string `json:"imageDigest,omitempty"`
	// ImageID is the CRI's ID of the checkpoint image, empty for an archive.
	ImageID string `json:"imageID,omitempty"`
	// Fresh says why the container begins anew, from the checkpoint's base image. Empty for one that is restored.
	Fresh string `json:"fresh,omitempty"`
}

// Of returns the note on a container, nil for one that has none. One that cannot be read is a note all the same: that
// of a container that is to be restored, of what is not known.
func Of(c *containers.Container) *Origin {
	ext, ok := c.Extensions[extension]
	if !ok {
		return nil
	}
	var o Origin
	if err := json.Unmarshal(ext.GetValue(), &o); err != nil {
		return &Origin{}
	}
	return &o
}

type key struct{}

// With returns a context in which containers that [Containers] creates get the note.
func With(ctx context.Context, o *Origin) context.Context { return context.WithValue(ctx, key{}, o) }

func from(ctx context.Context) *Origin {
	o, _ := ctx.Value(key{}).(*Origin)
	return o
}

// note adds the note to labels and extensions of a container.
func (o *Origin) note(labels map[string]string, extensions map[string]*anypb.Any) (map[string]string,
	map[string]*anypb.Any, error) {
	value, err := typeurl.MarshalAnyToProto(o)
	if err != nil {
		return nil, nil, err
	}
	if labels = maps.Clone(labels); labels == nil {
		labels = map[string]string{}
	}
	if extensions = maps.Clone(extensions); extensions == nil {
		extensions = map[string]*anypb.Any{}
	}
	labels[Label], extensions[extension] = o.ID, value
	return labels, extensions, nil
}
