package restore

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/guard"
)

// scriptName is how the path of the action script ends, whatever restore it is of.
const scriptName = "/guard/" + guard.Program

// Arm has CRIU run the guard in the container's restore. Without it links of the container would stay dead, and nobody would look
// at what came back.
func (s *Store) Arm(id string, r *Record) error {
	script, err := guard.Arm(s.Dirs.Guard(r.ID), s.Guard, guard.Facts{Container: id, Bundle: filepath.Join(s.Bundles, id)})
	if err != nil {
		return err
	}
	// In the form in which CRIU's parser can read it.
	if _, err := criu.ConfigFile(nil, []criu.Option{{Name: "action-script", Value: script}}); err != nil {
		return fmt.Errorf("the root directory of containerd has a name that CRIU cannot read: %w", err)
	}
	return s.configure(r, func(p *passing) { p.script = script })
}

// Restored takes out of the container's CRIU configuration what only the restore needed.
func (s *Store) Restored(r *Record) error {
	return s.configure(r, func(p *passing) { *p = passing{} })
}

// Verdict returns nil if the guard has said that the restored processes may run.
func (s *Store) Verdict(r *Record) error {
	v, err := guard.Outcome(s.Dirs.Guard(r.ID))
	if err != nil {
		return err
	}
	return v.Err()
}

// Armed reports whether the guard was to look at the restore: earlier plugins had none.
func (s *Store) Armed(r *Record) bool {
	_, err := os.Lstat(s.Dirs.Guard(r.ID))
	return err == nil
}
