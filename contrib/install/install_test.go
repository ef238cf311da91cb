package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	restorerunc "github.com/cri-restore/cri-restore/internal/runc"
)

// TestInstall installs on a node, again, a newer version over it, and takes it away: nothing is left.
func TestInstall(t *testing.T) {
	n := newNode(t)
	before := tree(t, n.root)

	out := n.install("--dry-run")
	contains(t, out, "containerd 2.3.4 (/usr/bin/containerd)", "CRIU 4.2.1 (/usr/sbin/criu)", "cgroup v",
		"install /opt/cri-restore/bin/runc", "install /etc/containerd/conf.d/90-restore.toml", "nothing was changed")
	sameTree(t, "a dry run", before, tree(t, n.root))

	contains(t, n.install(), "install /opt/cri-restore/bin/containerd", "there is no systemd")
	for _, name := range programs(t) {
		if info, err := os.Stat(n.root + "/opt/cri-restore/bin/" + name); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	first := tree(t, n.root)
	if out := n.install(); strings.Contains(out, ": install ") || strings.Contains(out, ": replace ") {
		t.Errorf("the second time something is done:\n%s", out)
	}
	sameTree(t, "the second time", first, tree(t, n.root))

	n.pack("1.1")
	contains(t, n.install(), "replace /opt/cri-restore/bin/containerd", "90-restore.toml is there and stays")
	if out, err := exec.Command(n.root + "/opt/cri-restore/bin/containerd").Output(); err != nil ||
		!strings.Contains(string(out), "1.1") {
		t.Errorf("after the upgrade: %v: %s", err, out)
	}

	contains(t, n.uninstall("--dry-run"), "remove /opt/cri-restore/bin/containerd", "nothing was changed")
	contains(t, n.uninstall(), "removed")
	// The folder for drop-in files is the node's if there was one.
	sameTree(t, "uninstalling", before, tree(t, n.root))
	contains(t, n.must(n.dist+"/uninstall.sh"), "nothing is installed")
}

// TestInstallConfiguration keeps what somebody has written, and makes a configuration where there is none.
func TestInstallConfiguration(t *testing.T) {
	n := newNode(t)
	main, own := n.root+"/etc/containerd/config.toml", n.root+"/etc/containerd/conf.d/90-restore.toml"
	if err := os.Remove(main); err != nil {
		t.Fatal(err)
	}
	before := tree(t, n.root)
	n.install()
	if text, err := os.ReadFile(main); err != nil ||
		!strings.Contains(string(text), `imports = ["/etc/containerd/conf.d/*.toml"]`) {
		t.Errorf("the main configuration: %v: %s", err, text)
	}
	n.install()
	n.uninstall()
	sameTree(t, "configuration that nobody changed", before, tree(t, n.root))

	n.install()
	n.file(own, "version = 3\n# mine\n", 0o644)
	n.install()
	contains(t, n.uninstall(), "90-restore.toml was changed and stays")
	if text, err := os.ReadFile(own); err != nil || !strings.Contains(string(text), "# mine") {
		t.Errorf("the configuration: %v: %s", err, text)
	}
	n.install()
	contains(t, n.install(), "90-restore.toml is there and stays")
}

// TestInstallLooks finds everything that does not fit, says what to do, and changes nothing.
func TestInstallLooks(t *testing.T) {
	newNode(t).install("--dry-run") // the honest twin of all
	for name, c := range map[string]struct {
		change func(n *node)
		says   string
	}{
		"a newer containerd": {func(n *node) {
			n.program(n.root+"/usr/bin/containerd", "containerd github.com/containerd/containerd/v2 v2.5.0 0123abc")
		}, "newer than 2.4.2"},
		"an old containerd": {func(n *node) {
			n.program(n.root+"/usr/bin/containerd", "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6")
		}, "older than 2.0"},
		"no containerd": {func(n *node) { n.remove("/usr/lib/systemd/system/containerd.service") },
			"there is no unit containerd.service"},
		"a strange argument": {func(n *node) {
			n.file(n.root+"/usr/lib/systemd/system/containerd.service",
				"[Service]\nExecStart=/usr/bin/containerd --config \"$X\"\n", 0o644)
		}, "cannot be repeated"},
		"no imports": {func(n *node) {
			n.file(n.root+"/etc/containerd/config.toml",
				"version = 3\n[plugins]\n  imports = ['/etc/containerd/conf.d/*.toml']\n", 0o644)
		}, "does not import"},
		"imports in a comment": {func(n *node) {
			n.file(n.root+"/etc/containerd/config.toml", "# imports = ['/etc/containerd/conf.d/*.toml']\nversion = 3\n", 0o644)
		}, "does not import"},
		"another configuration": {func(n *node) {
			n.file(n.root+"/usr/lib/systemd/system/containerd.service",
				"[Service]\nExecStart=/usr/bin/containerd --config /etc/other.toml\n", 0o644)
		}, "/etc/other.toml is not there"},
		"another runc": {func(n *node) {
			n.program(n.root+"/usr/sbin/runc", "runc version 1.4.3")
			n.file(n.root+"/etc/containerd/conf.d/90-restore.toml", "version = 3\n[x]\n  BinaryName = '/usr/sbin/runc'\n", 0o644)
		}, "/usr/sbin/runc is runc 1.4.3, /etc/containerd/conf.d/90-restore.toml wants it"},
		"no CRIU":     {func(n *node) { n.remove("/usr/sbin/criu") }, "there is no CRIU"},
		"an old CRIU": {func(n *node) { n.program(n.root+"/usr/sbin/criu", "Version: 3.17.1") }, "CRIU 3.17.1 is too old"},
		"a check that fails": {func(n *node) {
			n.file(n.root+"/usr/sbin/criu",
				"#!/bin/sh\n[ \"$1\" != check ] || { echo 'Error (x.c): no vDSO' >&2; exit 1; }\necho Version: 4.2.1\n", 0o755)
		}, "\"criu check\" fails: Error (x.c): no vDSO"},
		"no cgroups": {func(n *node) { n.remove("/sys/fs/cgroup") }, "/sys/fs/cgroup is not there"},
		"another machine": {func(n *node) { n.repack("arch="+runtime.GOARCH, "arch=riscv64") },
			"these programs are for riscv64"},
		"an old runc packed": {func(n *node) { n.repack("runc=1.4.4", "runc=1.4.3") }, "runc 1.4.3 is packed"},
		"a program of a newer distribution": {func(n *node) {
			n.file(n.dist+"/bin/runc", "#!/bin/sh\necho \"version GLIBC_2.99 not found\" >&2\nexit 1\n", 0o755)
			n.repack("", "")
		}, "runc does not start here: version GLIBC_2.99 not found"},
		"a damaged program": {func(n *node) { n.file(n.dist+"/bin/ctr", "#!/bin/sh\n", 0o755) },
			"a file is not as it was packed: bin/ctr"},
		"a missing program": {func(n *node) { os.Remove(n.dist + "/bin/ctr") }, "bin/ctr"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			c.change(n)
			before := tree(t, n.root)
			out, err := n.run(n.dist + "/install.sh")
			if err == nil {
				t.Error("it was installed")
			}
			contains(t, out, c.says)
			sameTree(t, "a refusal", before, tree(t, n.root))
		})
	}
}

func (n *node) remove(name string) {
	n.t.Helper()
	if err := os.Remove(n.root + name); err != nil {
		n.t.Fatal(err)
	}
}

// repack changes the file VERSION, and the checksums with it.
func (n *node) repack(old, new string) {
	n.t.Helper()
	text, err := os.ReadFile(n.dist + "/VERSION")
	if err != nil {
		n.t.Fatal(err)
	}
	n.file(n.dist+"/VERSION", strings.Replace(string(text), old, new, 1), 0o644)
	cmd := exec.Command("sh", "-c",
		"sums=$(sed 's/^[^ ]*  //' SHA256SUMS | xargs sha256sum) && echo \"$sums\" >SHA256SUMS")
	cmd.Dir = n.dist
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("%v: %s", err, out)
	}
}

// TestInstallForce goes on where somebody insists, and still says what does not fit.
func TestInstallForce(t *testing.T) {
	n := newNode(t)
	n.remove("/usr/sbin/criu")
	contains(t, n.install("--force"), "there is no CRIU", "install /opt/cri-restore/bin/containerd")
	n.uninstall()
}

// TestInstallForPackage writes below another folder, and looks at nothing of this system.
func TestInstallForPackage(t *testing.T) {
	n := newNode(t)
	n.root = ""
	dest := t.TempDir()
	n.install("--destdir="+dest, "--prefix=/usr/lib/cri-restore")
	unit, err := os.ReadFile(dest + "/etc/systemd/system/containerd.service.d/cri-restore.conf")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(unit), "ExecStart=\nExecStart=/usr/lib/cri-restore/bin/containerd\n",
		"PATH=/usr/lib/cri-restore/bin:")
	first := tree(t, dest)
	n.install("--destdir="+dest, "--prefix=/usr/lib/cri-restore")
	sameTree(t, "the second time", first, tree(t, dest))
	n.must(n.dist+"/uninstall.sh", "--destdir="+dest, "--prefix=/usr/lib/cri-restore")
	for _, line := range tree(t, dest) {
		if strings.Contains(line, " -") {
			t.Errorf("left: %s", line)
		}
	}
	if out, err := n.run(n.dist+"/install.sh", "--prefix=/opt/a b"); err == nil ||
		!strings.Contains(out, "a path of letters") {
		t.Errorf("a prefix with a space: %v: %s", err, out)
	}
}

// TestRuncUsable holds the rule of look.sh against the plugin's.
func TestRuncUsable(t *testing.T) {
	n, file := &node{t: t}, t.TempDir()+"/runc"
	for _, version := range []string{
		"1.4.3", "1.4.4-rc.1", "1.4.4", "1.4.10", "1.4.4+ds1", "1.4.4-0ubuntu1~24.04", "1.5.0-rc.2", "1.5.2", "1.5.3",
		"1.5.3+dev",
		"1.6.0-rc.1", "1.6.0-rc.2", "1.6.0", "1.6.1-rc.1", "1.7.0-rc.1", "1.3.9", "1.1.5+ds1-1+deb12u1", "1.0.0-rc93",
		"2.0.0", "0.1.1",
	} {
		n.program(file, "runc version "+version)
		_, _, refused := (&restorerunc.Binaries{}).Version(t.Context(), file)
		err := exec.Command("bash", "-c", `. ./look.sh && runc_usable "$1"`, "bash", version).Run()
		if (err == nil) != (refused == nil) {
			t.Errorf("runc %s: look.sh says %v, the plugin %v", version, err, refused)
		}
	}
	text, err := os.ReadFile("look.sh")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(text), "runc_needed='"+restorerunc.Needed+"'")
}

// TestStageMachine packs no program for another machine.
func TestStageMachine(t *testing.T) {
	n := newNode(t)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	bin, other := t.TempDir(), map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	for _, name := range programs(t) {
		n.program(filepath.Join(bin, name), name)
	}
	n.file(bin+"/runc", string(self[:4096]), 0o755)
	for arch, good := range map[string]bool{runtime.GOARCH: true, other: false, "riscv64": false} {
		out, err := exec.Command("./stage.sh", bin, t.TempDir()+"/out", "1.0", arch, "v2.4.2", "1.4.4").CombinedOutput()
		if (err == nil) != good {
			t.Errorf("for %s: %v: %s", arch, err, out)
		}
	}
}

// TestProgramsComplete: what is a program in contrib is for a node, or for the tests.
func TestProgramsComplete(t *testing.T) {
	tests := []string{"podman-archive", "registry", "testimage"}
	mains, err := filepath.Glob("../*/main.go")
	if err != nil || len(mains) == 0 {
		t.Fatalf("%v, %v", mains, err)
	}
	for _, main := range mains {
		name := filepath.Base(filepath.Dir(main))
		if slices.Contains(programs(t), name) == slices.Contains(tests, name) {
			t.Errorf("contrib/%s: list it in contrib/install/programs if a node needs it, or here", name)
		}
	}
}
