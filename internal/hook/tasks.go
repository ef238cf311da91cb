package hook

import (
	"fmt"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/services"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/errdefs"
	"github.com/containerd/plugin"

	// Registers io.containerd.service.v1.tasks-service, which Tasks wraps.
	_ "github.com/containerd/containerd/v2/plugins/services/tasks"
)

// Tasks wraps containerd's in-process task service, the one that the CRI
// plugin's client uses (containerd: plugins/services/tasks/local.go).
func Tasks(decorate func(*plugin.InitContext, api.TasksClient) (api.TasksClient, error)) error {
	return Wrap(plugins.ServicePlugin, services.TasksService, func(ic *plugin.InitContext, instance any) (any, error) {
		inner, ok := instance.(api.TasksClient)
		if !ok {
			return nil, fmt.Errorf("the task service of containerd %s cannot be decorated: %T is no TasksClient: %w",
				version.Version, instance, errdefs.ErrNotImplemented)
		}
		return decorate(ic, inner)
	})
}
