package restore

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// SpecOf returns a container's OCI spec.
func SpecOf(c *containers.Container) (*specs.Spec, error) {
	if c.Spec == nil {
		return nil, fmt.Errorf("container %s has no OCI spec: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	var spec specs.Spec
	if err := json.Unmarshal(c.Spec.GetValue(), &spec); err != nil {
		return nil, fmt.Errorf("OCI spec of container %s: %w", c.ID, err)
	}
	return &spec, nil
}
