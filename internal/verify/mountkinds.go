package verify

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// mountKinds checks that the pod mounts directories on directories and files on files. A mount point that is not there runc makes
// (criu_linux.go, prepareCriuRestoreMounts); the other way round the restore would fail.
//
// The error is of class errdefs.ErrFailedPrecondition.
func (v *verifier) mountKinds(root *place.Mount) error {
	alone, err := place.New([]*place.Mount{root}, v.step)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range binds(v.spec) {
		at, err := alone.Resolve(path.Clean("/" + m.Destination))
		if err != nil {
			continue // refused with the mounts
		}
		was, err := alone.At(at).Stat()
		if err != nil {
			continue // not in the root file system, or for runc to make
		}
		is, err := place.OpenDir(m.Source)
		if err != nil {
			continue
		}
		if dir := was.Mode&unix.S_IFMT == unix.S_IFDIR; is.IsDir() != dir {
			errs = append(errs, fmt.Errorf("what the pod mounts at %.200q is a %s, and the checkpoint has a %s there", m.Destination, kindOfBind(is.IsDir()), kindOfBind(dir)))
		}
		is.Close()
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("the checkpoint does not fit this pod: %s: %w", strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "; "), errdefs.ErrFailedPrecondition)
}
