package upstream

import (
	"maps"
	"reflect"
	"testing"

	"github.com/containerd/containerd/v2/plugins"
	_ "github.com/containerd/containerd/v2/plugins/cri/images"  // whose configuration is looked at
	_ "github.com/containerd/containerd/v2/plugins/cri/runtime" // likewise
	"github.com/containerd/errdefs"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/pelletier/go-toml/v2"
)

// containerds is an InitContext in which a plugin of the CRI's has containerd's own configuration, with the text added.
func containerds(t *testing.T, id, text string) *plugin.InitContext {
	t.Helper()
	set := plugin.NewPluginSet()
	for _, r := range registry.Graph(func(*plugin.Registration) bool { return false }) {
		if r.URI() != plugins.CRIServicePlugin.String()+"."+id {
			continue
		}
		ic := plugin.NewContext(t.Context(), set, nil)
		ic.Config = reflect.New(reflect.TypeOf(r.Config).Elem()).Interface()
		own, err := toml.Marshal(r.Config) // a deep copy, which the text may change
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{own, []byte(text)} {
			if err := toml.Unmarshal(data, ic.Config); err != nil {
				t.Fatal(err)
			}
		}
		r.InitFn = func(*plugin.InitContext) (any, error) { return id, nil }
		if err := set.Add(r.Init(ic)); err != nil {
			t.Fatal(err)
		}
		return ic
	}
	t.Fatalf("containerd registers no %s of the CRI's", id)
	return nil
}

// unknown are configurations of other shapes.
var unknown = []any{nil, 7, &struct{}{}, &struct{ Registry, EnableCRIU int }{},
	struct{ Registry struct{ ConfigPath string } }{}}

func TestRegistryDirs(t *testing.T) {
	ic := containerds(t, "images", "[registry]\nconfig_path = '/a'")
	dirs, err := RegistryDirs(ic)
	if err != nil {
		t.Fatal(err)
	}
	if got := dirs(); got != "/a" {
		t.Errorf("got %q", got)
	}
	// The image service sets its default later.
	if err := toml.Unmarshal([]byte("[registry]\nconfig_path = '/b:/c'"), ic.Config); err != nil {
		t.Fatal(err)
	}
	if got := dirs(); got != "/b:/c" {
		t.Errorf("got %q", got)
	}
	for _, config := range unknown {
		if _, err := registryDirs(config); !errdefs.IsNotImplemented(err) {
			t.Errorf("%T: %v", config, err)
		}
	}
}

func TestCRIUDisabled(t *testing.T) {
	for text, want := range map[string]bool{"": false, "enable_criu = true": false, "enable_criu = false": true} {
		if got, err := CRIUDisabled(containerds(t, "runtime", text)); got != want || err != nil {
			t.Errorf("%q: %t, %v", text, got, err)
		}
	}
	for _, config := range unknown {
		if _, err := criuDisabled(config); !errdefs.IsNotImplemented(err) {
			t.Errorf("%T: %v", config, err)
		}
	}
}

func TestRuncHandlers(t *testing.T) {
	got, err := RuncHandlers(containerds(t, "runtime", `
[containerd.runtimes.second]
runtime_type = "io.containerd.runc.v2"
[containerd.runtimes.second.options]
BinaryName = "old-runc"
[containerd.runtimes.other]
runtime_type = "io.containerd.kata.v2"
`))
	if err != nil || !maps.Equal(got, map[string]string{"runc": "", "second": "old-runc"}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, config := range unknown {
		if _, err := runcHandlers(config); err == nil {
			t.Errorf("%T: no error", config)
		}
	}
}

// Without the plugins of the CRI's there is nothing to read.
func TestConfigurationIsAbsent(t *testing.T) {
	ic := plugin.NewContext(t.Context(), plugin.NewPluginSet(), nil)
	_, dirs := RegistryDirs(ic)
	_, disabled := CRIUDisabled(ic)
	_, handlers := RuncHandlers(ic)
	for _, err := range []error{dirs, disabled, handlers} {
		if !errdefs.IsNotImplemented(err) {
			t.Errorf("error %v", err)
		}
	}
}
