package checkpoint

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Annotations of CRI-O's OCI spec (cri-o pkg/annotations).
const (
	crioLogPath     = "io.kubernetes.cri-o.LogPath"
	crioRepoDigests = "io.kubernetes.cri-o.ImageRepoDigests"
)

// crioFormat is what CRI-O's CheckpointContainer writes
// (internal/lib/checkpoint.go, checked with 1.36.3).
type crioFormat struct{}

func init() { register(crioFormat{}) }

// annotations: cri-o pkg/annotations. CRI-O looks for the name only.
func (crioFormat) annotations() Annotations {
	return Annotations{Prefix: "io.kubernetes.cri-o.annotations.checkpoint.", Deciding: []string{"name"}}
}

func (crioFormat) engine() Engine { return EngineCRIO }

func (crioFormat) took(spec *specs.Spec) bool { return spec.Annotations[managerAnnotation] == "cri-o" }

// base prefers the repository digest, because an image can be pulled by it.
// config.dump has only the image ID.
func (crioFormat) base(c *config, spec *specs.Spec) (BaseImage, error) {
	base := BaseImage{Name: first(c.RootfsImage, c.RootfsImageName)}
	digests := strings.FieldsFunc(spec.Annotations[crioRepoDigests], func(r rune) bool { return r == ',' || r == ' ' })
	if len(digests) > 0 {
		if ref, err := contentReference(digests[0], crioRepoDigests); err == nil && !isID(ref) {
			base.Reference = ref
			return base, nil
		}
	}
	const field = "rootfsImageRef"
	if c.RootfsImageRef == "" {
		return BaseImage{}, noBase(field)
	}
	var err error
	base.Reference, err = contentReference(c.RootfsImageRef, field)
	return base, err
}

// whiteouts: deletions are in deleted.files (go.podman.io/common/pkg/crutils).
func (crioFormat) whiteouts() bool { return false }

// mounts: see container_create_linux.go of CRI-O, and go.podman.io/common/pkg/subscriptions.
func (crioFormat) mounts() []string { return []string{containerEnv} }

// log is a file whose name is literally the key of the annotation.
func (crioFormat) log() string { return crioLogPath }
