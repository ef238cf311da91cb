package upstream

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
)

// ExtensionMetadata is the extension of a container in which the CRI plugin notes what the container was made from
// (containerd: internal/cri/labels, internal/cri/store/container/metadata.go).
const ExtensionMetadata = labels.CRIContainerdPrefix + ".container.metadata"

// NameOf returns the name that the CRI plugin has given a container. The error is of class
// errdefs.ErrFailedPrecondition if the container is not the CRI plugin's.
func NameOf(c *containers.Container) (string, error) {
	ext, ok := c.Extensions[ExtensionMetadata]
	if !ok {
		return "", fmt.Errorf("container %s has no metadata of the CRI plugin: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	var m struct{ Metadata struct{ Name string } }
	if err := json.Unmarshal(ext.GetValue(), &m); err != nil {
		return "", fmt.Errorf("CRI plugin's metadata of container %s: %w", c.ID, err)
	}
	return m.Metadata.Name, nil
}
