// Package hook wraps the registrations of containerd's own plugins.
//
// containerd builds its services from a registry of plugin registrations. A
// package that imports a plugin's package has its init run later, finds the
// registration there and can put a function around its InitFn. The instance
// that containerd then uses is the one that the wrapper returns.
//
// The package knows containerd's registry and the shape of the wrapped
// instances. It knows nothing of checkpoints.
package hook

import (
	"fmt"

	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/errdefs"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

// Wrap puts wrap around the InitFn of the registered plugin. After the plugin's
// own InitFn has succeeded, wrap gets its instance and returns the one to use
// instead, which may be the same.
//
// It must be called from an init function, before containerd reads the
// registry. It returns errdefs.ErrNotFound if no such plugin is registered.
func Wrap(t plugin.Type, id string, wrap func(*plugin.InitContext, any) (any, error)) error {
	r := find(t, id)
	if r == nil {
		return fmt.Errorf("plugin %s.%s is not part of containerd %s: %w", t, id, version.Version, errdefs.ErrNotFound)
	}
	inner := r.InitFn
	r.InitFn = func(ic *plugin.InitContext) (any, error) {
		instance, err := inner(ic)
		if err != nil {
			return instance, err
		}
		return wrap(ic, instance)
	}
	return nil
}

// find returns the registration itself. The registry only gives copies away,
// but its filter is handed the original.
func find(t plugin.Type, id string) *plugin.Registration {
	var found *plugin.Registration
	registry.Graph(func(r *plugin.Registration) bool {
		if r.Type == t && r.ID == id {
			found = r
		}
		return true // nothing is to be ordered, only looked at
	})
	return found
}
