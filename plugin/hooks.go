package plugin

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"

	"github.com/cri-restore/cri-restore/internal/ability"
	"github.com/cri-restore/cri-restore/internal/cri"
	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/guard"
	"github.com/cri-restore/cri-restore/internal/hook"
	"github.com/cri-restore/cri-restore/internal/upstream"
)

// checkTimeout bounds the call of CRIU when containerd starts.
const checkTimeout = 20 * time.Second

// checkDelay is when the checks begin that take longer, so that they do not slow down the start of containerd on a node
// with few processors. A request that needs them earlier makes them at once.
const checkDelay = 2 * time.Second

// wanted reports whether CRI is to be decorated. It is not if the plugin is
// disabled, by its own configuration or by disabled_plugins: containerd is
// then as without it.
func wanted(ic *plugin.InitContext) bool {
	p := ic.Plugins().Get(plugins.CRIServicePlugin, ID)
	if p == nil {
		return false
	}
	config, ok := p.Config.(*Config)
	return ok && config.Enable
}

// decorate puts the restore around containerd's CRI services, or what refuses
// checkpoints if the node cannot restore.
func decorate(ic *plugin.InitContext, inner hook.CRIServices) (hook.CRIServices, error) {
	instance, err := ic.GetByID(plugins.CRIServicePlugin, ID)
	if err != nil {
		client, cerr := containerd.New("", containerd.WithDefaultNamespace(upstream.Namespace),
			containerd.WithInMemoryServices(ic))
		if cerr != nil {
			return inner, cerr
		}
		inner.Runtime = cri.Refuse(client, snapshotters(ic), inner.Runtime, inner.Images, err)
		return inner, nil
	}
	registries, err := upstream.RegistryDirs(ic)
	if err != nil {
		return inner, err
	}
	noCRIU, err := upstream.CRIUDisabled(ic)
	if err != nil {
		return inner, err
	}
	found := instance.(*parts)
	if err := exportRuncs(ic, found.runcs); err != nil {
		return inner, err
	}
	r, i := cri.New(found.node(registries, noCRIU), inner.Runtime, inner.Images)
	return hook.CRIServices{Runtime: r, Images: i}, nil
}

// snapshotters are the names of the node's snapshotters.
func snapshotters(ic *plugin.InitContext) []string {
	db, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(db.(*metadata.DB).Snapshotters()))
}

// supported looks for what a restore needs on the node and what can be seen at once: a CRIU that is new enough, and
// runc's shim. What it finds is exported, for ctr plugins ls -d. What takes longer is for [abilities].
func supported(ic *plugin.InitContext) error {
	if _, err := exec.LookPath(shim); err != nil {
		self, serr := os.Executable()
		if serr != nil {
			return skip(err)
		}
		if _, serr := exec.LookPath(filepath.Join(filepath.Dir(self), shim)); serr != nil {
			return skip(fmt.Errorf("%w: install it beside containerd", err))
		}
	}
	binary, err := criu.Find(shimPath(ic))
	if err != nil {
		return skip(err)
	}
	ctx, cancel := context.WithTimeout(ic.Context, checkTimeout)
	defer cancel()
	version, err := criu.CheckVersion(ctx, binary)
	if err != nil {
		return skip(err)
	}
	if err := guard.Supported(); err != nil {
		return skip(err)
	}
	if ic.Meta.Exports["guard_path"], err = findProgram(guard.Program); err != nil {
		return skip(err)
	}
	ic.Meta.Exports["criu_path"] = binary
	ic.Meta.Exports["criu_version"] = version.String()
	return nil
}

// shimPath is the PATH with which shims start runc, and runc CRIU.
func shimPath(ic *plugin.InitContext) string {
	if shims, err := ic.GetSingle(plugins.ShimPlugin); err == nil {
		if e, ok := shims.(interface{ Env() []string }); ok {
			for _, v := range slices.Backward(e.Env()) {
				if p, ok := strings.CutPrefix(v, "PATH="); ok {
					return p
				}
			}
		}
	}
	return os.Getenv("PATH")
}

// abilities returns whether the node can restore, by checks that take too long for the start of containerd: they run
// after it, and again when a checkpoint is asked for while one of them fails. binary is the CRIU that [supported] has
// found.
func abilities(ctx context.Context, binary string) *ability.Ability {
	a := ability.New("restore checkpoints",
		func(ctx context.Context) error { return criu.CheckKernel(ctx, binary) },
	)
	a.Begin(ctx, checkDelay)
	return a
}

// shim is the only one that restores (restore.RuntimeRunc).
const shim = "containerd-shim-runc-v2"

func skip(err error) error {
	return fmt.Errorf("%w: %w", err, plugin.ErrSkipPlugin)
}
