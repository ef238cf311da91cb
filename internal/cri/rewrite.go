package cri

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/image"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// describe says in the record what is restored.
func describe(r *restore.Record, m *checkpoint.Metadata, base *image.Base) {
	r.BaseImage = base.Reference
	r.Producer = string(m.Engine)
	r.CheckpointedAt = m.CheckpointedAt
}

// rewrite returns the request that containerd gets: the same container from
// the base image. The request decides everything that identifies, isolates or
// limits; of the checkpoint there are only annotations that say what was restored.
//
// A request without a command gets the one of the checkpointed process, for those who look at it: containerd
// insists on a command, which the base image may not have, and a restore runs none.
func rewrite(r *runtime.CreateContainerRequest, m *checkpoint.Metadata, base *image.Base,
	record *restore.Record) *runtime.CreateContainerRequest {
	out := proto.Clone(r).(*runtime.CreateContainerRequest)
	img := out.Config.Image
	if img.UserSpecifiedImage == "" {
		img.UserSpecifiedImage = img.Image
	}
	img.Image = base.ID
	if len(out.Config.Command) == 0 && len(out.Config.Args) == 0 && m.Spec.Process != nil {
		out.Config.Command = slices.Clone(m.Spec.Process.Args)
	}
	if out.Config.Annotations == nil {
		out.Config.Annotations = map[string]string{}
	}
	maps.Copy(out.Config.Annotations, record.Annotations())
	return out
}
