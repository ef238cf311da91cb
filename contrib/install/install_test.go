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

	restorerunc "github.com/cri-restore/cri-restore/internal/runc"
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
	n.file(n.root+"/etc/containerd/config.toml", "version = 3\nimports = [\n  '/etc/containerd/conf.d/*.toml', # ours\n]\n\n[plugins]\n", 0o644)
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
	out, err := exec.Command("./stage.sh", bin, n.dist, version, runtime.GOARCH, "v2.4.2+cri-restore."+version, "1.4.4").CombinedOutput()
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
	if out, err := exec.Command(n.root + "/opt/cri-restore/bin/containerd").Output(); err != nil || !strings.Contains(string(out), "1.1") {
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
	if text, err := os.ReadFile(main); err != nil || !strings.Contains(string(text), `imports = ["/etc/containerd/conf.d/*.toml"]`) {
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
		"no containerd": {func(n *node) { n.remove("/usr/lib/systemd/system/containerd.service") }, "there is no unit containerd.service"},
		"a strange argument": {func(n *node) {
			n.file(n.root+"/usr/lib/systemd/system/containerd.service", "[Service]\nExecStart=/usr/bin/containerd --config \"$X\"\n", 0o644)
		}, "cannot be repeated"},
		"no imports": {func(n *node) {
			n.file(n.root+"/etc/containerd/config.toml", "version = 3\n[plugins]\n  imports = ['/etc/containerd/conf.d/*.toml']\n", 0o644)
		}, "does not import"},
		"imports in a comment": {func(n *node) {
			n.file(n.root+"/etc/containerd/config.toml", "# imports = ['/etc/containerd/conf.d/*.toml']\nversion = 3\n", 0o644)
		}, "does not import"},
		"another configuration": {func(n *node) {
			n.file(n.root+"/usr/lib/systemd/system/containerd.service", "[Service]\nExecStart=/usr/bin/containerd --config /etc/other.toml\n", 0o644)
		}, "/etc/other.toml is not there"},
		"another runc": {func(n *node) {
			n.program(n.root+"/usr/sbin/runc", "runc version 1.4.3")
			n.file(n.root+"/etc/containerd/conf.d/90-restore.toml", "version = 3\n[x]\n  BinaryName = '/usr/sbin/runc'\n", 0o644)
		}, "/usr/sbin/runc is runc 1.4.3, /etc/containerd/conf.d/90-restore.toml wants it"},
		"no CRIU":     {func(n *node) { n.remove("/usr/sbin/criu") }, "there is no CRIU"},
		"an old CRIU": {func(n *node) { n.program(n.root+"/usr/sbin/criu", "Version: 3.17.1") }, "CRIU 3.17.1 is too old"},
		"a check that fails": {func(n *node) {
			n.file(n.root+"/usr/sbin/criu", "#!/bin/sh\n[ \"$1\" != check ] || { echo 'Error (x.c): no vDSO' >&2; exit 1; }\necho Version: 4.2.1\n", 0o755)
		}, "\"criu check\" fails: Error (x.c): no vDSO"},
		"no cgroups":         {func(n *node) { n.remove("/sys/fs/cgroup") }, "/sys/fs/cgroup is not there"},
		"another machine":    {func(n *node) { n.repack("arch="+runtime.GOARCH, "arch=riscv64") }, "these programs are for riscv64"},
		"an old runc packed": {func(n *node) { n.repack("runc=1.4.4", "runc=1.4.3") }, "runc 1.4.3 is packed"},
		"a program of a newer distribution": {func(n *node) {
			n.file(n.dist+"/bin/runc", "#!/bin/sh\necho \"version GLIBC_2.99 not found\" >&2\nexit 1\n", 0o755)
			n.repack("", "")
		}, "runc does not start here: version GLIBC_2.99 not found"},
		"a damaged program": {func(n *node) { n.file(n.dist+"/bin/ctr", "#!/bin/sh\n", 0o755) }, "a file is not as it was packed: bin/ctr"},
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
	cmd := exec.Command("sh", "-c", "sums=$(sed 's/^[^ ]*  //' SHA256SUMS | xargs sha256sum) && echo \"$sums\" >SHA256SUMS")
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
	contains(t, string(unit), "ExecStart=\nExecStart=/usr/lib/cri-restore/bin/containerd\n", "PATH=/usr/lib/cri-restore/bin:")
	first := tree(t, dest)
	n.install("--destdir="+dest, "--prefix=/usr/lib/cri-restore")
	sameTree(t, "the second time", first, tree(t, dest))
	n.must(n.dist+"/uninstall.sh", "--destdir="+dest, "--prefix=/usr/lib/cri-restore")
	for _, line := range tree(t, dest) {
		if strings.Contains(line, " -") {
			t.Errorf("left: %s", line)
		}
	}
	if out, err := n.run(n.dist+"/install.sh", "--prefix=/opt/a b"); err == nil || !strings.Contains(out, "a path of letters") {
		t.Errorf("a prefix with a space: %v: %s", err, out)
	}
}

// TestRuncUsable holds the rule of look.sh against the plugin's.
func TestRuncUsable(t *testing.T) {
	n, file := &node{t: t}, t.TempDir()+"/runc"
	for _, version := range []string{
		"1.4.3", "1.4.4-rc.1", "1.4.4", "1.4.10", "1.4.4+ds1", "1.4.4-0ubuntu1~24.04", "1.5.0-rc.2", "1.5.2", "1.5.3", "1.5.3+dev",
		"1.6.0-rc.1", "1.6.0-rc.2", "1.6.0", "1.6.1-rc.1", "1.7.0-rc.1", "1.3.9", "1.1.5+ds1-1+deb12u1", "1.0.0-rc93", "2.0.0", "0.1.1",
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
