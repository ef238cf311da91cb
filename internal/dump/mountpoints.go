package dump

import (
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// checkMountPoints refuses a container with a mount point that runc would name to CRIU so that CRIU takes it for another one
// (CVE-2026-119101). runc names it by where it leads in the root file system now, through links that the container may have made
// while it ran (runc: libcontainer/criu_linux.go, criuMountDest).
func checkMountPoints(c *containers.Container, rootfs string) error {
	var spec specs.Spec
	if c.Spec == nil {
		return nil
	}
	if err := json.Unmarshal(c.Spec.GetValue(), &spec); err != nil {
		return fmt.Errorf("OCI spec of container %s: %w", c.ID, err)
	}
	var points []string
	devices := map[string]bool{}
	for _, m := range spec.Mounts {
		if m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
			points = append(points, m.Destination)
		}
	}
	if spec.Linux != nil {
		for _, d := range spec.Linux.Devices {
			points = append(points, d.Path)
			devices[d.Path] = true
		}
		points = append(points, spec.Linux.MaskedPaths...)
	}
	for _, point := range points {
		dst, err := securejoin.SecureJoin(rootfs, point)
		if err == nil {
			if dst, err = filepath.Rel(rootfs, dst); err == nil {
				if dst = path.Clean("/" + dst); dst == point && devices[point] {
					// A privileged container has all of the node's, such as /dev/bsg/0:0:0:0. Where no link leads, the
					// name is not the container's, and a colon alone ends nothing: CRIU looks for "]:".
					dst = strings.ReplaceAll(dst, ":", "")
				}
				err = place.MountPoint(dst)
			}
		}
		if err != nil {
			return fmt.Errorf("mount point %q: %w: remove the links on its way: %w", point, err, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}
