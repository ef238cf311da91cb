package checkpoint

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// podmanFormat is what "podman container checkpoint" writes with --export or
// --create-image (libpod/container_internal_common.go, checked with 4.3.1 and
// 5.8.6). config.dump is the whole libpod.ContainerConfig; it does not say when
// the checkpoint was taken.
type podmanFormat struct{}

func init() { register(podmanFormat{}) }

// annotations: podman pkg/criu and cmd/podman/utils. Podman looks for the runtime's name.
func (podmanFormat) annotations() Annotations {
	return Annotations{Prefix: "io.podman.annotations.checkpoint.", Deciding: []string{"name", "runtime.name"}}
}

func (podmanFormat) engine() Engine { return EnginePodman }

func (podmanFormat) took(spec *specs.Spec) bool {
	return spec.Annotations[managerAnnotation] == "libpod"
}

// base reads the image ID; Podman records no repository digest.
func (podmanFormat) base(c *config, _ *specs.Spec) (BaseImage, error) {
	const field = "rootfsImageID"
	if c.RootfsImageID == "" {
		return BaseImage{}, noBase(field)
	}
	ref, err := contentReference(c.RootfsImageID, field)
	if err != nil {
		return BaseImage{}, err
	}
	return BaseImage{Name: first(c.RawImageName, c.RootfsImageName), Reference: ref}, nil
}

// whiteouts: deletions are in deleted.files (go.podman.io/common/pkg/crutils).
func (podmanFormat) whiteouts() bool { return false }

// mounts: libpod/container_internal_common.go, makeBindMounts. Its other ones a pod of containerd has too.
func (podmanFormat) mounts() []string { return []string{containerEnv} }

// log is there with the log drivers k8s-file and json-file; k8s-file, the
// default, is the CRI log format.
func (podmanFormat) log() string { return "ctr.log" }
