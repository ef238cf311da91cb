package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/pelletier/go-toml/v2"
)

// restorePlugin is the plugin under test; its folders below root and state have this name too.
const restorePlugin = "io.containerd.cri.v1.restore"

type table = map[string]any

// writeConfig writes the daemon's configuration: everything that containerd would
// share with another containerd of the machine is moved below the node's folder.
func (n *node) writeConfig() error {
	runc := table{"BinaryName": filepath.Join(n.tools.Bin, "runc"), "SystemdCgroup": systemdDriver()}
	if n.runcRoot != defaultRuncRoot {
		runc["Root"] = n.runcRoot
	}
	plugins := table{
		"io.containerd.cri.v1.images": table{
			"snapshotter":   n.opts.snapshotter,
			"pinned_images": table{"sandbox": n.registry.Ref(PauseImage)},
			// An empty folder; a test may add <host>/hosts.toml to it.
			"registry": table{"config_path": n.path("hosts.d")},
		},
		"io.containerd.cri.v1.runtime": table{
			// Without CAP_SYS_RESOURCE a score below the daemon's own cannot be set.
			"restrict_oom_score_adj":       true,
			"netns_mounts_under_state_dir": true,
			"cdi_spec_dirs":                []string{n.path("cdi")},
			"cni":                          table{"bin_dirs": []string{n.tools.CNI}, "conf_dir": n.path("cni")},
			"containerd": table{
				"default_runtime_name": "runc",
				"runtimes": table{
					"runc": table{"runtime_type": "io.containerd.runc.v2", "options": runc},
				},
			},
		},
		"io.containerd.grpc.v1.cri":              table{"stream_server_address": "127.0.0.1", "stream_server_port": "0"},
		"io.containerd.image-verifier.v1.bindir": table{"bin_dir": n.path("verifier")},
		"io.containerd.internal.v1.opt":          table{"path": n.path("opt")},
		"io.containerd.server.v1.grpc":           table{"address": n.socket()},
		"io.containerd.server.v1.ttrpc":          table{"address": n.socket() + ".ttrpc"},
		"io.containerd.shim.v1.manager":          table{"socket_dir": n.path("s")},
		// CRI pulls through the transfer service, which unpacks for overlayfs only by default.
		"io.containerd.transfer.v1.local": table{"unpack_config": []table{{
			"platform": "linux/" + runtime.GOARCH, "snapshotter": n.opts.snapshotter, "differ": "walking",
		}}},
		// The logs that the plugin keeps of failed restores are meant to stay, so they
		// are not in a folder whose every entry is a leak.
		restorePlugin: table{"failed_log_dir": n.path("failed")},
		"io.containerd.nri.v1.nri": table{
			"socket_path":        n.path("nri.sock"),
			"plugin_path":        n.path("nri", "plugins"),
			"plugin_config_path": n.path("nri", "conf.d"),
		},
	}
	config := table{
		"version": 4,
		"root":    n.path("root"),
		"state":   n.path("state"),
		"temp":    n.path("tmp"),
		"imports": []string{},
		"plugins": plugins,
	}
	for _, snippet := range n.opts.config {
		if err := merge(config, snippet); err != nil {
			return fmt.Errorf("WithConfig: %w", err)
		}
	}
	if len(n.opts.restore) > 0 {
		restore := table{}
		for _, snippet := range n.opts.restore {
			if err := merge(restore, snippet); err != nil {
				return fmt.Errorf("WithRestoreConfig: %w", err)
			}
		}
		mergeTables(config, table{"plugins": table{restorePlugin: restore}})
	}
	data, err := toml.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(n.path("config.toml"), data, 0o600)
}

func merge(into table, snippet string) error {
	from := table{}
	if err := toml.Unmarshal([]byte(snippet), &from); err != nil {
		return fmt.Errorf("%w in:\n%s", err, snippet)
	}
	mergeTables(into, from)
	return nil
}

func mergeTables(into, from table) {
	for key, value := range from {
		below, isTable := value.(table)
		if target, ok := into[key].(table); ok && isTable {
			mergeTables(target, below)
			continue
		}
		into[key] = value
	}
}
