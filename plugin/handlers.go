package plugin

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/log"
	"github.com/containerd/plugin"

	"github.com/cri-restore/cri-restore/internal/runc"
	"github.com/cri-restore/cri-restore/internal/upstream"
)

// exportRuncs tells, in ctr plugins ls -d and for what cannot restore in the log, which runc each handler has. A
// handler whose runc is too old does not keep the others from restoring.
func exportRuncs(ic *plugin.InitContext, binaries *runc.Binaries) error {
	own := ic.Plugins().Get(plugins.CRIServicePlugin, ID)
	if own == nil || own.Meta.Exports == nil {
		return nil
	}
	handlers, err := upstream.RuncHandlers(ic)
	if err != nil {
		return err
	}
	for _, handler := range slices.Sorted(maps.Keys(handlers)) {
		file, version, err := binaries.Version(ic.Context, handlers[handler])
		found := fmt.Sprintf("%s %s", file, version)
		if err != nil {
			found = "unusable: " + err.Error()
			log.G(ic.Context).WithError(err).WithField("handler", handler).
				Error("no checkpoint can be restored with this runtime handler")
		}
		own.Meta.Exports["runc_"+handler] = found
	}
	return nil
}
