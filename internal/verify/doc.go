// Package verify compares a checkpoint with the OCI spec of the container that
// is to be restored from it, and refuses what would come back as something
// else than the spec says.
package verify

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// Compare checks the checkpoint's metadata against the final spec of the new
// container. The error, of class errdefs.ErrFailedPrecondition, names every
// difference that stands in the way of a restore.
func Compare(m *checkpoint.Metadata, spec *specs.Spec, stdin bool) error {
	if m.Spec == nil || m.Spec.Linux == nil || spec.Linux == nil {
		return fmt.Errorf("checkpoint of container %s: not a Linux container: %w", m.Name, errdefs.ErrFailedPrecondition)
	}
	err := errors.Join(namespaces(m.Spec, spec), stdio(m, spec, stdin), mounts(m, spec))
	if err == nil {
		return nil
	}
	return fmt.Errorf("checkpoint of container %s does not fit this pod: %s: %w",
		m.Name, strings.ReplaceAll(err.Error(), "\n", "; "), errdefs.ErrFailedPrecondition)
}
