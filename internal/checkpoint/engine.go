package checkpoint

import (
	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Engine is the container engine that took a checkpoint.
type Engine string

// The engines whose checkpoints are known.
const (
	EngineContainerd Engine = "containerd"
	EngineCRIO       Engine = "CRI-O"
	EnginePodman     Engine = "Podman"
)

// managerAnnotation is the annotation of the OCI spec by which CRI-O and
// Podman name themselves.
const managerAnnotation = "io.container.manager"

// containerEnv tells a process that it is in a container of Podman's or CRI-O's (podman-run(1)).
const containerEnv = "/run/.containerenv"

// config is config.dump, the fields of all engines together.
type config struct {
	metadata.ContainerConfig

	// Podman only, from its libpod.ContainerConfig.
	RootfsImageID string `json:"rootfsImageID,omitempty"`
	RawImageName  string `json:"RawImageName,omitempty"`
}

// format is what differs between the engines' checkpoints.
type format interface {
	engine() Engine
	// took reports whether the engine took the checkpoint with this spec.dump.
	took(spec *specs.Spec) bool
	// base reads the base image. The error is of class errdefs.ErrInvalidArgument.
	base(c *config, spec *specs.Spec) (BaseImage, error)
	// log is the name of the file with the container log.
	log() string
	// whiteouts says whether rootfs-diff.tar has whiteouts, see [Diff].
	whiteouts() bool
	// mounts are the paths of the engine's own mounts, see [Metadata.EngineMounts].
	mounts() []string
}

// formats in order of recognition. containerd takes what no other recognises,
// because its spec.dump does not name it; so does checkpointctl.
var formats = []format{crioFormat{}, podmanFormat{}, containerdFormat{}}

func formatOf(spec *specs.Spec) format {
	for _, f := range formats {
		if f.took(spec) {
			return f
		}
	}
	return containerdFormat{}
}
