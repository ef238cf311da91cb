package plugin

import (
	"runtime/debug"
	"testing"
)

func TestVersionOf(t *testing.T) {
	dependency := &debug.BuildInfo{
		Main: debug.Module{Path: "example.com/containerd", Version: "v9.9.9"},
		Deps: []*debug.Module{{Path: "example.com/other", Version: "v8.8.8"}, {Path: modulePath, Version: "v1.2.3"}},
	}
	for name, c := range map[string]struct {
		containerd string
		info       *debug.BuildInfo
		want       string
	}{
		"our build":     {"v2.4.2+cri-restore.1.0", dependency, "1.0"},
		"another build": {"v2.4.2", dependency, "v1.2.3"},
		"our module, by hand": {"2.4.2+unknown", &debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: "(devel)"}},
			"(devel)"},
		"a build without it": {"v2.4.2", &debug.BuildInfo{Main: debug.Module{Path: "example.com/x", Version: "v1"}},
			"unknown"},
		"a build that says so": {"v2.4.2", nil, "unknown"},
	} {
		if got := versionOf(c.containerd, c.info); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
