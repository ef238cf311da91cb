package checkpoint

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// LogFile is the log of the container in a checkpoint by containerd.
const LogFile = "container.log"

// containerdFormat is what containerd's CheckpointContainer writes
// (internal/cri/server/container_checkpoint_linux.go, 2.1 to 2.4).
type containerdFormat struct{}

func (containerdFormat) engine() Engine { return EngineContainerd }

func (containerdFormat) took(*specs.Spec) bool { return true }

// annotations: checkpointctl writes them, and containerd 2.1 to 2.3 look for the one (checkpointctl:
// lib/annotations.go).
func (containerdFormat) annotations() Annotations {
	return Annotations{Prefix: "org.criu.checkpoint.", Deciding: []string{"container.name"}}
}

// base reads rootfsImageRef: the image reference of the CRI container status, a
// name with a digest, or the image ID for an image without a name.
func (containerdFormat) base(c *config, _ *specs.Spec) (BaseImage, error) {
	const field = "rootfsImageRef"
	if c.RootfsImageRef == "" {
		return BaseImage{}, noBase(field)
	}
	ref, err := contentReference(c.RootfsImageRef, field)
	if err != nil {
		return BaseImage{}, err
	}
	return BaseImage{Name: first(c.RootfsImage, c.RootfsImageName), Reference: ref}, nil
}

func (containerdFormat) log() string { return LogFile }

// whiteouts: it is a layer (core/diff).
func (containerdFormat) whiteouts() bool { return true }

// mounts: containerd has none, but may have restored the container from another engine's checkpoint.
func (containerdFormat) mounts() []string { return []string{containerEnv} }
