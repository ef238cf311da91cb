package plugin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/plugins"
	_ "github.com/containerd/containerd/v2/plugins/cri/runtime" // whose configuration is looked at
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/pelletier/go-toml/v2"

	"github.com/cri-restore/cri-restore/internal/runc"
)

// criRuntime returns containerd's own configuration of the CRI runtime with the text added.
func criRuntime(t *testing.T, text string) any {
	t.Helper()
	for _, r := range registry.Graph(func(*plugin.Registration) bool { return false }) {
		if r.URI() == plugins.CRIServicePlugin.String()+".runtime" {
			if err := toml.Unmarshal([]byte(text), r.Config); err != nil {
				t.Fatal(err)
			}
			return r.Config
		}
	}
	t.Fatal("the build has no CRI runtime")
	return nil
}

const twoHandlers = `
[containerd.runtimes.second]
runtime_type = "io.containerd.runc.v2"
[containerd.runtimes.second.options]
BinaryName = "old-runc"
[containerd.runtimes.other]
runtime_type = "io.containerd.kata.v2"
`

func TestExportRuncs(t *testing.T) {
	dir := t.TempDir()
	for name, version := range map[string]string{"runc": "1.4.4", "old-runc": "1.4.3"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho runc version "+version+"\n"),
			0o755); err != nil {
			t.Fatal(err)
		}
	}
	set := plugin.NewPluginSet()
	for id, config := range map[string]any{ID: &Config{}, "runtime": criRuntime(t, twoHandlers)} {
		r := plugin.Registration{Type: plugins.CRIServicePlugin, ID: id, InitFn: func(ic *plugin.InitContext) (any, error) {
			ic.Meta.Exports["x"] = "y"
			return id, nil
		}}
		ic := plugin.NewContext(t.Context(), set, nil)
		ic.Config = config
		if err := set.Add(r.Init(ic)); err != nil {
			t.Fatal(err)
		}
	}
	if err := exportRuncs(plugin.NewContext(t.Context(), set, nil), &runc.Binaries{Path: dir}); err != nil {
		t.Fatal(err)
	}
	exports := set.Get(plugins.CRIServicePlugin, ID).Meta.Exports
	if got := exports["runc_runc"]; got != filepath.Join(dir, "runc")+" 1.4.4" {
		t.Errorf("runc: %q", got)
	}
	if got := exports["runc_second"]; !strings.HasPrefix(got, "unusable: ") || !strings.Contains(got, "1.4.3") ||
		!strings.Contains(got, runc.Needed) {
		t.Errorf("second: %q", got)
	}
	if _, ok := exports["runc_other"]; ok {
		t.Errorf("exports %v", exports)
	}
}
