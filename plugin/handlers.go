package plugin

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/plugin"

	"github.com/cri-restore/cri-restore/internal/restore"
	"github.com/cri-restore/cri-restore/internal/runc"
)

// exportRuncs tells, in ctr plugins ls -d and for what cannot restore in the log, which runc each handler has. A handler whose runc
// is too old does not keep the others from restoring.
func exportRuncs(ic *plugin.InitContext, binaries *runc.Binaries) error {
	own := ic.Plugins().Get(plugins.CRIServicePlugin, ID)
	cri := ic.Plugins().Get(plugins.CRIServicePlugin, "runtime")
	if own == nil || own.Meta.Exports == nil || cri == nil {
		return nil
	}
	handlers, err := runcHandlers(cri.Config)
	if err != nil {
		return err
	}
	for _, handler := range slices.Sorted(maps.Keys(handlers)) {
		file, version, err := binaries.Version(ic.Context, handlers[handler])
		found := fmt.Sprintf("%s %s", file, version)
		if err != nil {
			found = "unusable: " + err.Error()
			log.G(ic.Context).WithError(err).WithField("handler", handler).Error("no checkpoint can be restored with this runtime handler")
		}
		own.Meta.Exports["runc_"+handler] = found
	}
	return nil
}

// runcHandlers returns the BinaryName of the runtime handlers that can restore, by name (containerd: internal/cri/config, RuntimeConfig,
// of which no type is exported).
func runcHandlers(config any) (map[string]string, error) {
	data, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("configuration of the CRI plugin: %w", err)
	}
	var c struct {
		Containerd *struct {
			Runtimes map[string]struct {
				Type    string `json:"runtimeType"`
				Options struct{ BinaryName string }
			} `json:"runtimes"`
		} `json:"containerd"`
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("configuration of the CRI plugin: %w", err)
	}
	if c.Containerd == nil || c.Containerd.Runtimes == nil {
		return nil, fmt.Errorf("the configuration of the CRI plugin has no runtime handlers where containerd 2.4 has them: %w", errdefs.ErrNotImplemented)
	}
	out := map[string]string{}
	for handler, r := range c.Containerd.Runtimes {
		if r.Type == restore.RuntimeRunc {
			out[handler] = r.Options.BinaryName
		}
	}
	return out, nil
}
