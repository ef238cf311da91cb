package restore

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// EngineMounts returns the mounts that a container's spec lacks and the checkpoint has because its engine had made
// them, not its pod: CRIU needs a source for each mount that was there. They are empty files, read-only: what was
// in them spoke of the old engine.
func (s *Store) EngineMounts(r *Record, m *checkpoint.Metadata, spec *specs.Spec) ([]specs.Mount, error) {
	at := func(dst string) func(specs.Mount) bool {
		return func(m specs.Mount) bool { return path.Clean(m.Destination) == dst }
	}
	var add []specs.Mount
	for i, dst := range m.EngineMounts {
		if !slices.ContainsFunc(m.Spec.Mounts, at(dst)) || slices.ContainsFunc(spec.Mounts, at(dst)) {
			continue
		}
		source := filepath.Join(s.Dirs.Engine(r.ID), strconv.Itoa(i))
		if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
			return nil, fmt.Errorf("mount %s of %s: %w", dst, m.Engine, err)
		}
		f, err := os.OpenFile(source, os.O_CREATE|os.O_WRONLY, 0o444)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("mount %s of %s: %w", dst, m.Engine, err)
		}
		add = append(add, specs.Mount{Destination: dst, Type: "bind", Source: source,
			Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev", "noexec"}})
	}
	return add, nil
}
