package install

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// node is a system below a folder, with programs that only say their version, and no systemd unless it is given one.
type node struct {
	t          *testing.T
	dist, root string
	path       string // where systemctl is, if there is one
}

// program writes a script that prints the same for every call.
func (n *node) program(name, output string) {
	n.t.Helper()
	n.file(name, "#!/bin/sh\ncat <<'END'\n"+output+"\nEND\n", 0o755)
}

func (n *node) file(name, content string, mode os.FileMode) {
	n.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		n.t.Fatal(err)
	}
}

// newNode packs programs, and makes a node with containerd 2.3.4 that they fit.
func newNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("install.sh is run as root")
	}
	dir := t.TempDir()
	n := &node{t: t, dist: filepath.Join(dir, "dist"), root: filepath.Join(dir, "root"), path: filepath.Join(dir, "path")}
	n.pack("1.0")
	n.program(n.root+"/usr/bin/containerd", "containerd github.com/containerd/containerd/v2 v2.3.4 0123abc")
	n.file(n.root+"/usr/lib/systemd/system/containerd.service", "[Service]\nExecStart=/usr/bin/containerd\n", 0o644)
	n.file(n.root+"/etc/containerd/config.toml",
		"version = 3\nimports = [\n  '/etc/containerd/conf.d/*.toml', # ours\n]\n\n[plugins]\n", 0o644)
	n.program(n.root+"/usr/sbin/criu", "Version: 4.2.1")
	for _, dir := range []string{"/etc/systemd/system", "/opt", "/sys/fs"} {
		if err := os.MkdirAll(n.root+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/sys/fs/cgroup", n.root+"/sys/fs/cgroup"); err != nil {
		t.Fatal(err)
	}
	return n
}

// pack lays out the archive of a version.
func (n *node) pack(version string) {
	n.t.Helper()
	bin := n.t.TempDir()
	for _, name := range programs(n.t) {
		n.program(filepath.Join(bin, name), name+" "+version)
	}
	n.program(bin+"/containerd", "containerd github.com/containerd/containerd/v2 v2.4.2+cri-restore."+version+" 0123abc")
	n.file(bin+"/ctr", "#!/bin/sh\n# "+version+": as where containerd does not run\nexit 1\n", 0o755)
	out, err := exec.Command("./stage.sh", bin, n.dist, version, runtime.GOARCH, "v2.4.2+cri-restore."+version,
		"1.4.4").CombinedOutput()
	if err != nil {
		n.t.Fatalf("stage.sh: %v: %s", err, out)
	}
}

// programs are those that contrib/install/programs lists.
func programs(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("programs")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// run runs a script for the node and returns what it says.
func (n *node) run(script string, args ...string) (string, error) {
	cmd := exec.Command(script, args...)
	cmd.Env = append(os.Environ(), "CRI_RESTORE_SYSROOT="+n.root, "PATH="+n.path+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must is run for what has to work.
func (n *node) must(script string, args ...string) string {
	n.t.Helper()
	out, err := n.run(script, args...)
	if err != nil {
		n.t.Fatalf("%s %v: %v\n%s", filepath.Base(script), args, err, out)
	}
	return out
}

func (n *node) install(args ...string) string {
	n.t.Helper()
	return n.must(n.dist+"/install.sh", args...)
}

// uninstall runs the script that was installed.
func (n *node) uninstall(args ...string) string {
	n.t.Helper()
	return n.must(n.root+"/opt/cri-restore/share/cri-restore/uninstall.sh", args...)
}

// tree lists all that is below a folder, with mode and content of files.
func tree(t *testing.T, root string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v", strings.TrimPrefix(name, root), info.Mode())
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			line += " " + string(content)
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func sameTree(t *testing.T, what string, before, after []string) {
	t.Helper()
	for _, line := range after {
		if !slices.Contains(before, line) {
			t.Errorf("%s: there is now %.120q", what, line)
		}
	}
	for _, line := range before {
		if !slices.Contains(after, line) {
			t.Errorf("%s: there is no more %.120q", what, line)
		}
	}
}

func contains(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("no word of %q in:\n%s", w, out)
		}
	}
}
