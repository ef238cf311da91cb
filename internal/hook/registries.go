package hook

import (
	"reflect"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
)

// RegistryDirs returns a function that says where the CRI's image service finds the configuration of registries:
// config_path of its table "registry", directories separated as in PATH. It is asked when it is needed, because the
// image service sets its default only when it starts (containerd: plugins/cri/images). The type of that configuration
// is internal to containerd: like the services it is looked at by reflection, and a shape that is not known is an error.
func RegistryDirs(ic *plugin.InitContext) (func() string, error) {
	p := ic.Plugins().Get(plugins.CRIServicePlugin, "images")
	if p == nil {
		return nil, shapeError(nil, "there is no plugin "+plugins.CRIServicePlugin.String()+".images")
	}
	return registryDirs(p.Config)
}

func registryDirs(config any) (func() string, error) {
	dirs := reflect.ValueOf(config)
	if dirs.IsValid() && dirs.Kind() == reflect.Pointer {
		dirs = dirs.Elem()
	}
	for _, name := range []string{"Registry", "ConfigPath"} {
		if !dirs.IsValid() || dirs.Kind() != reflect.Struct {
			return nil, shapeError(config, "the image service's configuration has no "+name)
		}
		dirs = dirs.FieldByName(name)
	}
	if !dirs.IsValid() || dirs.Kind() != reflect.String || !dirs.CanAddr() {
		return nil, shapeError(config, "the image service's registry.config_path is no string that can be followed")
	}
	return dirs.String, nil
}
