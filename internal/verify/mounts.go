package verify

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// maxNamed is how many differing volumes an error names.
const maxNamed = 8

// mounts compares the bind mounts. CRIU needs a source for each that was there. Of
// those that were not [Mounts] makes it mount.
func mounts(m *checkpoint.Metadata, is *specs.Spec) error {
	had, has := binds(m.Spec), binds(is)
	var (
		errs  []error
		total int
	)
	// The names may be a stranger's: quoted, and not too many of them.
	differs := func(format, dst string) {
		if total++; total <= maxNamed {
			errs = append(errs, fmt.Errorf(format, dst))
		}
	}
	for _, dst := range slices.Sorted(maps.Keys(had)) {
		now, ok := has[dst]
		if !ok {
			differs("the checkpoint has a volume at %.200q and the pod mounts none there", dst)
			continue
		}
		if dir, known := m.Binds[dst]; known {
			if info, err := os.Stat(now.Source); err == nil && info.IsDir() != dir {
				differs("what the checkpoint has at %.200q is a "+kindOfBind(dir)+", and what the pod mounts there is a "+kindOfBind(!dir), dst)
			}
		}
	}
	if more := total - maxNamed; more > 0 {
		errs = append(errs, fmt.Errorf("and %d more volumes", more))
	}
	return errors.Join(errs...)
}

func kindOfBind(dir bool) string {
	if dir {
		return "directory"
	}
	return "file"
}

func binds(s *specs.Spec) map[string]specs.Mount {
	out := map[string]specs.Mount{}
	for _, mnt := range s.Mounts {
		if parseOptions(mnt).bind {
			out[path.Clean(mnt.Destination)] = mnt
		}
	}
	return out
}
