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

	"github.com/cri-restore/cri-restore/internal/ability"
	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/pageserver"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// lazyPages returns what lazy restores need, nil if the node cannot do them; then all memory is
// restored before a container runs. If anybody may ask for one, it is said why. Whether the kernel can do them is
// found out after the start of containerd.
func lazyPages(ic *plugin.InitContext, config *Config) *restore.Pages {
	if config.LazyPages == string(policy.LazyOff) && !slices.Contains(config.PodAnnotations, policy.AnnotationLazy) {
		ic.Meta.Exports["lazy_pages"] = config.LazyPages
		return nil
	}
	program, err := findProgram(pageserver.Program)
	if err != nil {
		ic.Meta.Exports["lazy_pages"] = "unavailable: " + err.Error()
		log.G(ic.Context).WithError(err).Warn("this node cannot restore lazily: all memory is restored before a container " +
			"runs")
		return nil
	}
	ic.Meta.Exports["lazy_pages"] = config.LazyPages
	binary := ic.Meta.Exports["criu_path"]
	kernel := ability.New("restore lazily", func(ctx context.Context) error {
		// What the page server needs of userfaultfd, the events of fork, remap and unmap included.
		return criu.CheckFeature(ctx, binary, "uffd-noncoop")
	})
	kernel.Begin(ic.Context, checkDelay)
	return &restore.Pages{Program: program, CRIU: binary, Able: kernel}
}

// findProgram looks for a program of ours beside containerd, then on its PATH.
func findProgram(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	program, err := exec.LookPath(filepath.Join(filepath.Dir(self), name))
	if err != nil {
		if program, err = exec.LookPath(name); err != nil {
			return "", fmt.Errorf("%w: install it beside containerd", err)
		}
	}
	return program, nil
}
