package guard

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Verdict is what the guard says of a restore.
type Verdict struct {
	// Released is set when the guard has seen the container's mounts as the pod has them: links are followed again.
	Released bool `json:"released,omitempty"`
	// Inspected is set when it has looked at everything that came back, right before that was to run.
	Inspected bool `json:"inspected,omitempty"`
	// Took is the time that the inspection took, CPU the time of processors.
	Took time.Duration `json:"ns,omitempty"`
	CPU  time.Duration `json:"cpuNS,omitempty"`
	// Failure says what the guard could not do, for which the restore fails.
	Failure string `json:"failure,omitempty"`
	// Findings are the first things that the pod was not granted; Total counts all, ByCheck by their kind.
	Findings []Finding `json:"findings,omitempty"`
	Total    int       `json:"total,omitempty"`
	// Killed is set when the processes were killed for what was found, on a node that only audits as well.
	Killed  bool           `json:"killed,omitempty"`
	ByCheck map[string]int `json:"byCheck,omitempty"`
}

// Outcome returns the verdict on a restore. The error is of class errdefs.ErrNotFound if the guard has said nothing.
func Outcome(dir string) (*Verdict, error) {
	var v Verdict
	if err := read(filepath.Join(dir, verdictFile), &v); err != nil {
		return nil, fmt.Errorf("guard of the restore: %w", err)
	}
	return &v, nil
}

// Found returns nil if nothing was found that the pod was not granted, or else an error of class errdefs.ErrPermissionDenied.
func (v *Verdict) Found() error {
	if v.Total == 0 {
		return nil
	}
	texts := make([]string, 0, len(v.Findings)+1)
	for _, f := range v.Findings {
		texts = append(texts, f.String())
	}
	if more := v.Total - len(v.Findings); more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("the restored container has more than its pod was granted: %s: %w", strings.Join(texts, "; "), errdefs.ErrPermissionDenied)
}

// Failed returns nil if the guard has done all of its work, or else an error of class errdefs.ErrFailedPrecondition.
func (v *Verdict) Failed() error {
	why := v.Failure
	switch {
	case why != "":
	case !v.Released:
		why = "it did not see the container's mounts"
	case !v.Inspected:
		why = "it did not see what came back"
	default:
		return nil
	}
	return fmt.Errorf("guard of the restore: %s: %w", why, errdefs.ErrFailedPrecondition)
}
