package verify

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// hostNamespaces checks the checkpoint's CRIU images, which are what CRIU goes by, against the
// final spec of the new container. The error, of class errdefs.ErrFailedPrecondition, names
// every difference that stands in the way of a restore; it is of class
// errdefs.ErrInvalidArgument if the images cannot be read.
//
// containerd gives a container the network and PID namespace by path even if it is the
// host's, so that the specs of the two pods look alike.
func hostNamespaces(images *criu.Images, is *specs.Spec) error {
	shared, err := images.SharedNamespaces()
	if err != nil {
		return err
	}
	var errs []error
	differs := func(kind specs.LinuxNamespaceType, format string) {
		errs = append(errs, fmt.Errorf(format+": %s", kind, remedies[kind]))
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		now, err := isHost(is, kind)
		if err != nil {
			return err
		}
		was := slices.Contains(shared, kind)
		switch {
		case was && !now && (kind == specs.IPCNamespace || kind == specs.UTSNamespace) && modeOf(is, kind) == joined:
			// CRIU joins the one of the spec, whatever was dumped.
		case was && !now:
			differs(kind, "the process was in the host's %s namespace when the checkpoint was taken and would be there again")
		case !was && now && kind == specs.PIDNamespace:
			differs(kind, "the process was not in the host's %s namespace when the checkpoint was taken and would now be")
		}
	}
	if !slices.Contains(shared, specs.UserNamespace) {
		errs = append(errs, errors.New("the process was in a user namespace, which CRIU cannot restore in a pod: set hostUsers: true"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the checkpoint does not fit this pod: %s: %w", strings.ReplaceAll(err.Error(), "\n", "; "), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// procNames are the names of namespaces in proc(5), where they differ from those of the spec.
var procNames = map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.MountNamespace: "mnt"}

// isHost says whether the spec puts a container into the namespace of the node, which is that
// of this process as well as of CRIU.
func isHost(s *specs.Spec, kind specs.LinuxNamespaceType) (bool, error) {
	for _, n := range s.Linux.Namespaces {
		if n.Type != kind {
			continue
		}
		if n.Path == "" {
			return false, nil
		}
		name, ok := procNames[kind]
		if !ok {
			name = string(kind)
		}
		theirs, err := os.Stat(n.Path)
		if err != nil {
			return false, fmt.Errorf("%s namespace of the pod: %w", kind, err)
		}
		ours, err := os.Stat(filepath.Join("/proc/self/ns", name))
		if err != nil {
			return false, fmt.Errorf("%s namespace of the node: %w", kind, err)
		}
		return os.SameFile(theirs, ours), nil
	}
	return true, nil
}
