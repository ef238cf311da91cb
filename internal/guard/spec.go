package guard

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// spec is what the guard reads of the OCI spec that the runtime is given.
type spec struct {
	Root   *specs.Root   `json:"root"`
	Mounts []specs.Mount `json:"mounts"`
}

func loadSpec(bundle string) (*spec, error) {
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("OCI spec of the container: %w", err)
	}
	var s spec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("OCI spec of the container: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if s.Root == nil {
		return nil, fmt.Errorf("OCI spec of the container: it has no root: %w", errdefs.ErrInvalidArgument)
	}
	return &s, nil
}
