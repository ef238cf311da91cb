package verify

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// MountKinds checks that the pod mounts directories on directories and files on files. root is where the
// container's root file system is mounted, with the checkpoint's changes. A mount point that is not there runc makes
// (criu_linux.go, prepareCriuRestoreMounts); the other way round the restore would fail.
//
// The error is of class errdefs.ErrFailedPrecondition.
func MountKinds(spec *specs.Spec, root string) error {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("root file system of the new container: %w", err)
	}
	defer dir.Close()
	var errs []error
	for _, m := range binds(spec) {
		was, err := dir.Stat(strings.TrimPrefix(path.Clean("/"+m.Destination), "/"))
		if err != nil {
			continue // not in the root file system, or for runc to make
		}
		is, err := os.Stat(m.Source)
		if err == nil && is.IsDir() != was.IsDir() {
			errs = append(errs, fmt.Errorf("what the pod mounts at %.200q is a %s, and the checkpoint has a %s there", m.Destination, kindOfBind(is.IsDir()), kindOfBind(was.IsDir())))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("the checkpoint does not fit this pod: %s: %w", strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "; "), errdefs.ErrFailedPrecondition)
}
