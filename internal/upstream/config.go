package upstream

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/errdefs"
	"github.com/containerd/plugin"
)

// RegistryDirs returns a function that says where the CRI's image service finds the configuration of registries:
// config_path of its table "registry", directories separated as in PATH. It is asked when it is needed, because the
// image service sets its default only when it starts (containerd: plugins/cri/images/plugin.go). The type of that
// configuration is internal to containerd: it is looked at by reflection, and a shape that is not known is an error.
func RegistryDirs(ic *plugin.InitContext) (func() string, error) {
	config, err := configOf(ic, "images")
	if err != nil {
		return nil, err
	}
	return registryDirs(config)
}

func registryDirs(config any) (func() string, error) {
	dirs, err := fieldOf(config, "Registry", "ConfigPath")
	if err != nil {
		return nil, err
	}
	if dirs.Kind() != reflect.String || !dirs.CanAddr() {
		return nil, shapeError(config, "registry.config_path is no string that can be followed")
	}
	return dirs.String, nil
}

// CRIUDisabled reports whether the CRI plugin's enable_criu is false (containerd: internal/cri/config/config.go).
func CRIUDisabled(ic *plugin.InitContext) (bool, error) {
	config, err := configOf(ic, "runtime")
	if err != nil {
		return false, err
	}
	return criuDisabled(config)
}

func criuDisabled(config any) (bool, error) {
	field, err := fieldOf(config, "EnableCRIU")
	if err != nil {
		return false, err
	}
	enabled, ok := field.Interface().(*bool)
	if !ok {
		return false, shapeError(config, "enable_criu is a "+field.Type().String())
	}
	return enabled != nil && !*enabled, nil
}

// RuncHandlers returns the BinaryName of the runtime handlers that can restore, by name (containerd:
// internal/cri/config/config.go).
func RuncHandlers(ic *plugin.InitContext) (map[string]string, error) {
	config, err := configOf(ic, "runtime")
	if err != nil {
		return nil, err
	}
	return runcHandlers(config)
}

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
		return nil, shapeError(config, "it has no runtime handlers")
	}
	out := map[string]string{}
	for handler, r := range c.Containerd.Runtimes {
		if r.Type == plugins.RuntimeRuncV2 {
			out[handler] = r.Options.BinaryName
		}
	}
	return out, nil
}

// configOf returns the configuration of a plugin of the CRI's that has been initialised.
func configOf(ic *plugin.InitContext, id string) (any, error) {
	p := ic.Plugins().Get(plugins.CRIServicePlugin, id)
	if p == nil {
		return nil, shapeError(nil, "there is no plugin "+plugins.CRIServicePlugin.String()+"."+id)
	}
	return p.Config, nil
}

// fieldOf returns a field of a struct, or of a struct in it.
func fieldOf(config any, names ...string) (reflect.Value, error) {
	v := reflect.Indirect(reflect.ValueOf(config))
	for _, name := range names {
		if v.Kind() != reflect.Struct {
			return v, shapeError(config, "there is no struct with the field "+name)
		}
		if v = v.FieldByName(name); !v.IsValid() {
			return v, shapeError(config, "it has no field "+name)
		}
	}
	return v, nil
}

func shapeError(config any, why string) error {
	return fmt.Errorf("the configuration of the CRI plugin of containerd %s cannot be read: %T: %s; "+
		"use a cri-restore that was made for this version, or disable io.containerd.cri.v1.restore by disabled_plugins: %w",
		version.Version, config, why, errdefs.ErrNotImplemented)
}
