package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/grant"
	"github.com/cri-restore/cri-restore/internal/guard"
	"github.com/cri-restore/cri-restore/internal/verify"
)

// scriptName is how the path of the action script ends, whatever restore it is of.
const scriptName = "/guard/" + guard.Program

// Arm has CRIU run the guard in the container's restore. Without it links of the container would stay dead, and nobody
// would look at what came back.
func (s *Store) Arm(id string, r *Record) error {
	granted, err := s.granted(id)
	if err != nil {
		return err
	}
	c, err := checkpoint.Open(s.Dirs.Checkpoint(r), s.Limits)
	if err != nil {
		return fmt.Errorf("checkpoint %s: %w", r.Image, err)
	}
	paths, err := pathsOf(c.ImagesDir())
	if err := errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("checkpoint %s: %w", r.Image, err)
	}
	script, err := guard.Arm(s.Dirs.Guard(r.ID), s.Guard, guard.Facts{
		Container: id, Grant: *granted, Audit: s.Audit, Permitted: r.ImagesDigest != "" && !r.Unpermitted,
	}, paths)
	if err != nil {
		return err
	}
	// In the form in which CRIU's parser can read it.
	if _, err := criu.ConfigFile(nil, []criu.Option{{Name: "action-script", Value: script}}); err != nil {
		return fmt.Errorf("the root directory of containerd has a name that CRIU cannot read: %w", err)
	}
	return s.configure(r, func(p *passing) { p.script = script })
}

// ListenCRIU hears which process CRIU is in a restore that is armed.
func (s *Store) ListenCRIU(r *Record) (*guard.Listener, error) {
	return guard.Listen(s.Dirs.Guard(r.ID))
}

// granted is what the spec grants that the runtime is given.
func (s *Store) granted(id string) (*grant.Container, error) {
	data, err := os.ReadFile(filepath.Join(s.Bundles, id, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("OCI spec of container %s: %w", id, err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("OCI spec of container %s: %w", id, err)
	}
	return verify.Grant(&spec)
}

// Restored takes out of the container's CRIU configuration what only the restore needed.
func (s *Store) Restored(r *Record) error {
	return s.configure(r, func(p *passing) { *p = passing{} })
}

// Verdict returns what the guard has found that the pod was not granted, nil for nothing, and an error if the processes
// must not run for it, or because the guard could not do its work.
func (s *Store) Verdict(r *Record) (*guard.Verdict, error) {
	v, err := guard.Outcome(s.Dirs.Guard(r.ID))
	if err != nil {
		return nil, err
	}
	if found := v.Found(); found != nil && (!s.Audit || v.Killed) {
		return v, found
	}
	return v, v.Failed()
}

// Armed reports whether the guard was to look at the restore: earlier plugins had none.
func (s *Store) Armed(r *Record) bool {
	_, err := os.Lstat(s.Dirs.Guard(r.ID))
	return err == nil
}
