package image

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/upstream"
)

// makers are those of checkpoint images.
var makers = checkpoint.ImageAnnotations()

// isCheckpoint reports whether one of the deciding annotations is present, whatever its value.
func isCheckpoint(annotations map[string]string) bool {
	for _, maker := range makers {
		for _, key := range maker.Deciding {
			if _, ok := annotations[maker.Prefix+key]; ok {
				return true
			}
		}
	}
	return false
}

// merge adds to dst, which may be nil, those annotations of src that speak of a
// checkpoint, and returns it.
func merge(dst, src map[string]string) map[string]string {
	for key, value := range src {
		if !slices.ContainsFunc(makers, func(m checkpoint.Annotations) bool { return strings.HasPrefix(key, m.Prefix) }) {
			continue
		}
		if dst == nil {
			dst = make(map[string]string)
		}
		dst[key] = value
	}
	return dst
}

// Annotations of a checkpointed container's OCI spec that say which container of
// which pod it was: those of containerd's CRI, and
// those of CRI-O, which repeats the labels that the kubelet sets
// (k8s.io/kubelet/pkg/types) and adds its own.
var podAnnotations = map[string][]string{
	metadata.CheckpointAnnotationName:      {upstream.AnnotationContainerName, "io.kubernetes.container.name"},
	metadata.CheckpointAnnotationPod:       {upstream.AnnotationPodName, "io.kubernetes.pod.name"},
	metadata.CheckpointAnnotationNamespace: {upstream.AnnotationPodNamespace, "io.kubernetes.pod.namespace"},
	metadata.CheckpointAnnotationPodUID:    {upstream.AnnotationPodUID, "io.kubernetes.pod.uid"},
	metadata.CheckpointAnnotationPodID:     {upstream.AnnotationPodID, "io.kubernetes.cri-o.SandboxID"},
}

// annotationsOf returns those of checkpointctl's that the checkpoint has a value
// for, and the OCI ones. They are for people and tools that look at an image
// without its layer; the plugin reads the layer.
func annotationsOf(m *checkpoint.Metadata, platform ocispec.Platform) map[string]string {
	all := map[string]string{
		metadata.CheckpointAnnotationEngine:                   string(m.Engine),
		metadata.CheckpointAnnotationRuntimeName:              m.Runtime,
		metadata.CheckpointAnnotationRootfsImageName:          m.Base.Name,
		metadata.CheckpointAnnotationRootfsImageUserRequested: m.Base.Name,
		metadata.CheckpointAnnotationRootfsImageID:            m.Base.Reference,
		metadata.CheckpointAnnotationHostArch:                 platform.Architecture,
		ocispec.AnnotationBaseImageName:                       m.Base.Name,
	}
	if named, err := reference.ParseNormalizedNamed(m.Base.Reference); err == nil {
		if canonical, ok := named.(reference.Canonical); ok {
			all[metadata.CheckpointAnnotationRootfsImageSha] = canonical.Digest().String()
			all[ocispec.AnnotationBaseImageDigest] = canonical.Digest().String()
		}
	}
	for key, sources := range podAnnotations {
		for _, source := range sources {
			if value := m.Spec.Annotations[source]; all[key] == "" && presentable(value) {
				all[key] = value
			}
		}
	}
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" })
	if _, ok := all[metadata.CheckpointAnnotationName]; !ok {
		all[metadata.CheckpointAnnotationName] = m.Name // not of a pod; even if empty, it makes the image a checkpoint image
	}
	return all
}

// presentable refuses what a stranger should not put into an annotation.
func presentable(s string) bool {
	return len(s) <= 1024 && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
