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

// format is what differs between the engines' checkpoints. Each is in a file of its own, which registers it.
type format interface {
	engine() Engine
	// took reports whether the engine took the checkpoint with this spec.dump. No two engines say so of one.
	took(spec *specs.Spec) bool
	// base reads the base image. The error is of class errdefs.ErrInvalidArgument.
	base(c *config, spec *specs.Spec) (BaseImage, error)
	// log is the name of the file with the container log.
	log() string
	// whiteouts says whether rootfs-diff.tar has whiteouts, see [Diff].
	whiteouts() bool
	// mounts are the paths of the engine's own mounts, see [Metadata.EngineMounts].
	mounts() []string
	// annotations are those of images that the engine, or who packs its checkpoints, makes.
	annotations() Annotations
}

// Annotations of a checkpoint image.
type Annotations struct {
	// Prefix is that of all of them.
	Prefix string
	// Deciding are those, without the prefix, of which each makes an image a checkpoint image, whatever its value.
	Deciding []string
}

// formats are those that can be told by spec.dump. containerd takes what no other recognises,
// because its spec.dump does not name it; so does checkpointctl.
var formats []format

func register(f format) { formats = append(formats, f) }

func formatOf(spec *specs.Spec) format {
	for _, f := range formats {
		if f.took(spec) {
			return f
		}
	}
	return containerdFormat{}
}

// ImageAnnotations returns those of all engines.
func ImageAnnotations() []Annotations {
	all := []Annotations{containerdFormat{}.annotations()}
	for _, f := range formats {
		all = append(all, f.annotations())
	}
	return all
}
