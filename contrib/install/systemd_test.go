package install

import (
	"encoding/base64"
	"os"
	"strings"
	"testing"
)

const dropIn = "/etc/systemd/system/containerd.service.d/cri-restore.conf"

// newSystemd is a node with a systemd that starts containerd as its unit says, and a ctr that asks that containerd.
func newSystemd(t *testing.T, arguments string) *node {
	t.Helper()
	n := newNode(t)
	if err := os.MkdirAll(n.root+"/run/systemd/system", 0o755); err != nil {
		t.Fatal(err)
	}
	n.file(n.path+"/systemctl", `#!/bin/sh
root=$CRI_RESTORE_SYSROOT
echo "$*" >>"$root/run/calls"
case $1 in
show)
	line="/usr/bin/containerd`+arguments+`"
	[ ! -f "$root`+dropIn+`" ] || line=$(sed -n 's/^ExecStart=\(.\)/\1/p' "$root`+dropIn+`")
	echo "{ path=${line%% *} ; argv[]=$line ; ignore_errors=no ;" \
		"start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }"
	;;
restart)
	if [ ! -f "$root`+dropIn+`" ]; then version=v2.3.4
	elif [ -f "$root/run/broken" ]; then exit 1
	else version=v2.4.2+cri-restore.1.0; fi
	echo "$version" >"$root/run/server"
	;;
esac
`, 0o755)
	n.file(n.root+"/run/server", "v2.3.4\n", 0o644)
	// What is not restored has no label, so that ctr does not list it.
	n.file(n.dist+"/bin/ctr", `#!/bin/sh
root=$CRI_RESTORE_SYSROOT
case $* in
"--namespace k8s.io version")
	printf 'Client:\n  Version:  v1\n  Go version: go1\n\n'
	printf 'Server:\n  Version:  %s\n  UUID: 1\n' "$(cat "$root/run/server")" ;;
*"containers ls -q labels.\"org.criu.restore/id\"") cat "$root/run/containers" 2>/dev/null || true ;;
*"tasks ls -q") cat "$root/run/tasks" 2>/dev/null || true ;;
*"containers info "*) cat "$root/run/record" ;;
*plugins*) echo "io.containerd.cri.v1    restore    -            ok" ;;
*) exit 1 ;;
esac
`, 0o755)
	n.repack("", "")
	return n
}

func (n *node) calls() string {
	n.t.Helper()
	calls, err := os.ReadFile(n.root + "/run/calls")
	if err != nil {
		n.t.Fatal(err)
	}
	if err := os.Remove(n.root + "/run/calls"); err != nil {
		n.t.Fatal(err)
	}
	return string(calls)
}

// TestInstallSystemd restarts containerd when something has changed, and only then.
func TestInstallSystemd(t *testing.T) {
	n := newSystemd(t, " --config /etc/containerd/config.toml --log-level debug")
	before := tree(t, n.root)
	contains(t, n.install(), "containerd 2.3.4 (/usr/bin/containerd --config /etc/containerd/config.toml --log-level "+
		"debug)",
		"restart containerd", "containerd v2.4.2+cri-restore.1.0 runs", "restore    -            ok")
	contains(t, n.calls(), "daemon-reload\nrestart containerd.service\n")
	unit, err := os.ReadFile(n.root + dropIn)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(unit), "\nExecStart=\nExecStart=/opt/cri-restore/bin/containerd --config "+
		"/etc/containerd/config.toml --log-level debug\n",
		"\nKillMode=process\n", "\nEnvironment=PATH=/opt/cri-restore/bin:")

	n.program(n.root+"/opt/cri-restore/bin/containerd", "containerd x v2.4.2+cri-restore.0.9")
	contains(t, n.install(), "containerd 2.4.2+cri-restore.0.9 (/opt/cri-restore/bin/containerd --config",
		"replace /opt/cri-restore/bin/containerd", "restart containerd")
	n.calls()
	contains(t, n.install(), "nothing to do")
	if calls := n.calls(); strings.Contains(calls, "restart") {
		t.Errorf("the second time systemctl is called with\n%s", calls)
	}
	again, err := os.ReadFile(n.root + dropIn)
	if err != nil || string(again) != string(unit) {
		t.Errorf("the unit's drop-in changed: %v:\n%s", err, again)
	}
	if out := n.install("--no-restart"); strings.Contains(out, "restart containerd:") {
		t.Errorf("it was restarted:\n%s", out)
	}

	contains(t, n.uninstall(), "restart containerd as it was before", "removed")
	contains(t, n.calls(), "daemon-reload\nrestart containerd.service\n")
	sameTree(t, "uninstalling", before, tree(t, n.root))
}

// TestInstallRollback puts the unit back when containerd does not come up.
func TestInstallRollback(t *testing.T) {
	n := newSystemd(t, "")
	n.file(n.root+"/run/broken", "", 0o644)
	out, err := n.run(n.dist + "/install.sh")
	if err == nil {
		t.Error("it was installed")
	}
	contains(t, out, "containerd did not come up", "journalctl -u containerd")
	if _, err := os.Stat(n.root + dropIn); !os.IsNotExist(err) {
		t.Errorf("the unit's drop-in is there: %v", err)
	}
	if server, err := os.ReadFile(n.root + "/run/server"); err != nil || string(server) != "v2.3.4\n" {
		t.Errorf("containerd: %v, %s", err, server)
	}
	if err := os.Remove(n.root + "/run/broken"); err != nil {
		t.Fatal(err)
	}
	contains(t, n.install(), "containerd v2.4.2+cri-restore.1.0 runs")
}

// TestUninstallWaits does nothing while a container waits for its restore.
func TestUninstallWaits(t *testing.T) {
	info := func(extensions ...string) string {
		var list []string
		for i := 0; i < len(extensions); i += 2 {
			list = append(list, `"org.criu.restore/`+extensions[i]+`": {
			"type_url": "github.com/cri-restore/cri-restore/x",
			"value": "`+base64.StdEncoding.EncodeToString([]byte(extensions[i+1]))+`"}`)
		}
		return `{"ID": "c1", "Labels": {"org.criu.restore/id": "r1"}, "Extensions": {"other": {"value": "e30="}` +
			strings.Join(append([]string{""}, list...), ", ") + `}}`
	}
	record := func(text string) string { return info("origin", `{"id":"r1","image":"x"}`, "record", text) }
	for name, c := range map[string]struct {
		containers, tasks, record string
		refused                   bool
		says                      string
	}{
		"waits": {"c1\n", "", record(`{"version":1,"id":"r1"}`), true,
			"created from a checkpoint and not started, and could not be once the plugin is gone: c1"},
		"waits, of a kind": {"c1\n", "c11\n", record(`{"version":1,"id":"r1","image":"ended:true"}`), true, "not started"},
		"runs": {"c1\n", "c1\n", record(`{"version":1,"id":"r1","ended":true}`), false,
			"run on, without statistics and OOMKilled: c1"},
		"has ended":         {"c1\n", "", record(`{"version":1,"id":"r1","ended":true}`), false, "run on"},
		"killed in between": {"c1\n", "", info("origin", `{"id":"r1","image":"x"}`), true, "not started"},
		"began anew": {"c1\n", "", info("origin", `{"id":"r1","image":"x","fresh":"no such image"}`), false,
			"removed"},
		"a label of its own": {"c1\n", "", info(), false, "removed"},
		"was not restored":   {"", "c2\n", "{}", false, "removed"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newSystemd(t, "")
			n.install()
			for file, text := range map[string]string{"containers": c.containers, "tasks": c.tasks, "record": c.record} {
				n.file(n.root+"/run/"+file, text, 0o644)
			}
			n.file(n.root+"/var/lib/containerd/io.containerd.cri.v1.restore/r1/criu.conf", "", 0o600)
			n.file(n.root+"/proc/mounts", "", 0o444)
			before := tree(t, n.root+"/opt")
			out, err := n.run(n.root+"/opt/cri-restore/share/cri-restore/uninstall.sh", "--purge")
			contains(t, out, c.says)
			if (err != nil) != c.refused {
				t.Errorf("%v:\n%s", err, out)
			}
			if c.refused {
				sameTree(t, "a refusal", before, tree(t, n.root+"/opt"))
			}
			_, err = os.Stat(n.root + "/var/lib/containerd/io.containerd.cri.v1.restore")
			if kept := err == nil; kept != strings.Contains(out, "c1") {
				t.Errorf("what restores have left: %v:\n%s", err, out)
			}
		})
	}
	t.Run("something is mounted", func(t *testing.T) {
		n := newSystemd(t, "")
		n.install()
		n.file(n.root+"/var/lib/containerd/io.containerd.cri.v1.restore/r1/view/file", "", 0o600)
		n.file(n.root+"/proc/mounts", "overlay /var/lib/containerd/io.containerd.cri.v1.restore/r1/view overlay ro 0 0\n",
			0o444)
		contains(t, n.uninstall("--purge"), "stays: something is mounted below it")
		if _, err := os.Stat(n.root + "/var/lib/containerd/io.containerd.cri.v1.restore/r1/view/file"); err != nil {
			t.Error(err)
		}
	})
	t.Run("containerd of another kind still runs", func(t *testing.T) {
		n := newSystemd(t, "")
		n.install()
		out, err := n.run(n.root+"/opt/cri-restore/share/cri-restore/uninstall.sh", "--no-restart")
		if err == nil {
			t.Error("the programs of a containerd that runs were removed")
		}
		contains(t, out, "containerd of cri-restore still runs")
		if _, err := os.Stat(n.root + "/opt/cri-restore/bin/containerd"); err != nil {
			t.Error(err)
		}
	})
}
