package guard

import (
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// Verdict is what the guard says of a restore.
type Verdict struct {
	// Released is set when the guard has seen the container's mounts as the pod has them: links are followed again.
	Released bool `json:"released,omitempty"`
	// Failure says what the guard could not do, for which the restore fails.
	Failure string `json:"failure,omitempty"`
}

// Outcome returns the verdict on a restore. The error is of class errdefs.ErrNotFound if the guard has said nothing.
func Outcome(dir string) (*Verdict, error) {
	var v Verdict
	if err := read(filepath.Join(dir, verdictFile), &v); err != nil {
		return nil, fmt.Errorf("guard of the restore: %w", err)
	}
	return &v, nil
}

// Err returns nil if the restored processes may run, or else an error of class errdefs.ErrFailedPrecondition.
func (v *Verdict) Err() error {
	if v.Failure != "" {
		return fmt.Errorf("guard of the restore: %s: %w", v.Failure, errdefs.ErrFailedPrecondition)
	}
	if !v.Released {
		return fmt.Errorf("guard of the restore: it did not see the container's mounts: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}
