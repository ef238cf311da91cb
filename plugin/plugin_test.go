package plugin

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/cri-restore/cri-restore/internal/guard"
)

const uri = "io.containerd.cri.v1.restore"

func registration(t *testing.T) *plugin.Registration {
	t.Helper()
	var found []*plugin.Registration
	registry.Graph(func(r *plugin.Registration) bool {
		if r.URI() == uri {
			found = append(found, r)
		}
		return true
	})
	if len(found) != 1 {
		t.Fatalf("%d registrations of %s", len(found), uri)
	}
	return found[0]
}

func TestRegistration(t *testing.T) {
	r := registration(t)
	if want := DefaultConfig(); !reflect.DeepEqual(r.Config, &want) {
		t.Errorf("configuration %+v", r.Config)
	}
	for _, needed := range []plugin.Type{plugins.MetadataPlugin, plugins.EventPlugin, plugins.ServicePlugin,
		plugins.LeasePlugin} {
		if !slices.Contains(r.Requires, needed) {
			t.Errorf("%s is not required", needed)
		}
	}
	if slices.Contains(r.Requires, plugins.GRPCPlugin) {
		t.Error("it requires what it decorates")
	}
}

// The plugin must be there before the CRI plugin is decorated, which is of the
// type that requires every plugin of this one's.
func TestCRIPluginComesLater(t *testing.T) {
	order := map[string]int{}
	for i, r := range registry.Graph(func(*plugin.Registration) bool { return false }) {
		order[r.URI()] = i
	}
	for _, before := range []string{uri, plugins.ServicePlugin.String() + ".tasks-service"} {
		if at, ok := order[before]; !ok || at >= order[plugins.GRPCPlugin.String()+".cri"] {
			t.Errorf("%s is made at %d, io.containerd.grpc.v1.cri at %d", before, at, order["io.containerd.grpc.v1.cri"])
		}
	}
	if order[plugins.ServicePlugin.String()+".tasks-service"] >= order[uri] {
		t.Error("the task service is made after what binds to it")
	}
}

// initContext is that of a containerd whose PATH has the given programs.
func initContext(t *testing.T, config *Config) *plugin.InitContext {
	t.Helper()
	ic := plugin.NewContext(t.Context(), plugin.NewPluginSet(), map[string]string{
		plugins.PropertyRootDir: t.TempDir(), plugins.PropertyStateDir: t.TempDir(),
	})
	ic.Config = config
	ic.Meta = &plugin.Meta{Exports: map[string]string{}}
	return ic
}

func TestInitRefusesOrSkips(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*Config)
		path    map[string]string // programs in PATH
		skipped bool
		is      func(error) bool
		says    []string
	}{
		"broken configuration": {func(c *Config) { c.FailedLogs = -1 }, nil, false, errdefs.IsInvalidArgument,
			[]string{"failed_logs"}},
		"turned off": {func(c *Config) { c.Enable = false }, nil, true, nil, []string{"enable = false"}},
		"no shim":    {nil, nil, true, nil, []string{shim}},
		"no CRIU":    {nil, map[string]string{shim: ""}, true, errdefs.IsNotFound, []string{"criu", "install"}},
		"old CRIU": {nil, map[string]string{shim: "", "criu": `echo "Version: 3.17.1"`}, true,
			errdefs.IsFailedPrecondition, []string{"3.17.1", "4.1"}},
		"no guard": {nil, map[string]string{shim: "", "criu": `echo "Version: 4.2.1"`}, true, nil,
			[]string{guard.Program, "install it beside containerd"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for program, script := range c.path {
				if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", dir)
			config := DefaultConfig()
			if c.change != nil {
				c.change(&config)
			}
			instance, err := initRestore(initContext(t, &config))
			if err == nil || instance != nil {
				t.Fatalf("got %v, %v", instance, err)
			}
			if plugin.IsSkipPlugin(err) != c.skipped {
				t.Errorf("skipped: %t: %v", !c.skipped, err)
			}
			if c.is != nil && !c.is(err) {
				t.Errorf("wrong class: %v", err)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error does not say %q: %v", s, err)
				}
			}
		})
	}
}

func TestSupported(t *testing.T) {
	dir := t.TempDir()
	for program, script := range map[string]string{shim: "", guard.Program: "",
		"criu": `[ "$1" = check ] || echo "Version: 4.2.1"`} {
		if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	ic := initContext(t, nil)
	if err := supported(ic); err != nil {
		t.Fatal(err)
	}
	if ic.Meta.Exports["guard_path"] != filepath.Join(dir, guard.Program) ||
		ic.Meta.Exports["criu_path"] != filepath.Join(dir, "criu") || ic.Meta.Exports["criu_version"] != "4.2.1" {
		t.Errorf("exports %v", ic.Meta.Exports)
	}
}

// A CRIU that the kernel is not enough for does not delay the start, and is asked again when it is needed.
func TestAbilities(t *testing.T) {
	dir := t.TempDir()
	binary, works := filepath.Join(dir, "criu"), filepath.Join(dir, "works")
	script := "#!/bin/sh\n[ -e " + works + " ] || { echo 'Error (criu/x.c:1): no kernel for this'; exit 1; }\n"
	if err := os.WriteFile(binary, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	able := abilities(t.Context(), binary)
	for range 2 {
		if err := able.Err(t.Context()); !errdefs.IsFailedPrecondition(err) ||
			!strings.Contains(err.Error(), "no kernel for this") {
			t.Errorf("got %v", err)
		}
	}
	if err := os.WriteFile(works, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := able.Err(t.Context()); err != nil || !able.Passed() {
		t.Errorf("it works now: %v", err)
	}
}

// The CRI plugin stays as it is if the plugin is disabled, by its own configuration or by containerd's.
func TestWanted(t *testing.T) {
	of := func(p ...*plugin.Plugin) *plugin.InitContext {
		set := plugin.NewPluginSet()
		for _, p := range p {
			if err := set.Add(p); err != nil {
				t.Fatal(err)
			}
		}
		return plugin.NewContext(t.Context(), set, nil)
	}
	this := func(config any) *plugin.Plugin {
		r := plugin.Registration{Type: plugins.CRIServicePlugin, ID: ID,
			InitFn: func(*plugin.InitContext) (any, error) { return nil, errors.New("failed") }}
		ic := plugin.NewContext(t.Context(), plugin.NewPluginSet(), nil)
		ic.Config = config
		return r.Init(ic)
	}
	on, off := DefaultConfig(), DefaultConfig()
	off.Enable = false
	for name, c := range map[string]struct {
		ic   *plugin.InitContext
		want bool
	}{
		"not registered":        {of(), false},
		"turned off":            {of(this(&off)), false},
		"on, even if it failed": {of(this(&on)), true},
		"no configuration":      {of(this(nil)), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := wanted(c.ic); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
}
