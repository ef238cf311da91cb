package plugin

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/containerd/log"
	"github.com/containerd/plugin"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/pageserver"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// lazyPages returns what lazy restores need, nil if the node cannot do them; then all memory is
// restored before a container runs. If anybody may ask for one, it is said why.
func lazyPages(ic *plugin.InitContext, config *Config) *restore.Pages {
	if config.LazyPages == string(policy.LazyOff) && !slices.Contains(config.PodAnnotations, policy.AnnotationLazy) {
		ic.Meta.Exports["lazy_pages"] = config.LazyPages
		return nil
	}
	pages, err := findPages(ic.Context, ic.Meta.Exports["criu_path"])
	if err != nil {
		ic.Meta.Exports["lazy_pages"] = "unavailable: " + err.Error()
		log.G(ic.Context).WithError(err).Warn("no lazy restores on this node: all memory is restored before a container runs")
		return nil
	}
	ic.Meta.Exports["lazy_pages"] = config.LazyPages
	return pages
}

func findPages(ctx context.Context, binary string) (*restore.Pages, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	// What the page server needs of userfaultfd, the events of fork, remap and unmap included.
	if err := criu.CheckFeature(ctx, binary, "uffd-noncoop"); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	program, err := exec.LookPath(filepath.Join(filepath.Dir(self), pageserver.Program))
	if err != nil {
		if program, err = exec.LookPath(pageserver.Program); err != nil {
			return nil, fmt.Errorf("%w: install it beside containerd", err)
		}
	}
	return &restore.Pages{Program: program, CRIU: binary}, nil
}
