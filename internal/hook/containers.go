package hook

import (
	"fmt"

	api "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/services"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/errdefs"
	"github.com/containerd/plugin"

	// Registers io.containerd.service.v1.containers-service, which Containers wraps.
	_ "github.com/containerd/containerd/v2/plugins/services/containers"
)

// Containers wraps containerd's in-process service of containers, the one that the CRI
// plugin's client uses (containerd: plugins/services/containers/local.go).
func Containers(decorate func(api.ContainersClient) api.ContainersClient) error {
	return Wrap(plugins.ServicePlugin, services.ContainersService, func(_ *plugin.InitContext, instance any) (any, error) {
		inner, ok := instance.(api.ContainersClient)
		if !ok {
			return nil, fmt.Errorf("the container service of containerd %s cannot be decorated: %T is no ContainersClient: %w",
				version.Version, instance, errdefs.ErrNotImplemented)
		}
		return decorate(inner), nil
	})
}
