package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestInstall packs what was built, installs it below a folder of its own, and takes it away from beside a real
// containerd: not while a container waits for its restore, and without a trace once nobody needs it. How the scripts
// behave on all sorts of nodes is tested in contrib/install.
func TestInstall(t *testing.T) {
	t.Parallel()
	tools := harness.Require(t)
	version := builtVersion(t, tools.Bin)
	if number := changelogVersion(t); version != number && !strings.HasPrefix(version, number+"-dev") {
		t.Errorf("what was built has version %s, the changelog %s", version, number)
	}
	bin, archive := archived(t, tools.Bin, version)

	dir := t.TempDir()
	command(t, nil, "tar", "-xzf", archive, "-C", dir)
	dist := filepath.Join(dir, strings.TrimSuffix(filepath.Base(archive), ".tar.gz"))
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, nil, filepath.Join(dist, "install.sh"), "--destdir="+root)
	command(t, nil, filepath.Join(dist, "install.sh"), "--destdir="+root)
	installed := filepath.Join(root, "opt/cri-restore")
	if got := builtVersion(t, filepath.Join(installed, "bin")); got != version {
		t.Errorf("what is installed has version %q, want %q", got, version)
	}
	if text, err := os.ReadFile(filepath.Join(installed, "share/cri-restore/VERSION")); err != nil ||
		!bytes.HasPrefix(text, []byte("version="+version+"\n")) {
		t.Errorf("VERSION: %v: %s, want %s", err, text, version)
	}
	list, err := os.ReadFile(filepath.Join(root, "etc/systemd/system/containerd.service.d/cri-restore.conf"))
	if err != nil || !strings.Contains(string(list), "ExecStart=/opt/cri-restore/bin/containerd\n") {
		t.Errorf("the unit's drop-in: %v: %s", err, list)
	}
	programs, err := os.ReadDir(filepath.Join(installed, "bin"))
	if err != nil || len(programs) == 0 {
		t.Errorf("%d programs: %v", len(programs), err)
	}
	for _, p := range programs {
		if !bytes.Equal(content(t, filepath.Join(bin, p.Name())), content(t, filepath.Join(installed, "bin", p.Name()))) {
			t.Errorf("%s is not the one that was built", p.Name())
		}
	}

	n := harness.New(t)
	if out := n.Ctr("plugins", "ls", "-d", "id==restore"); !regexp.MustCompile(`version +` + regexp.QuoteMeta(version) +
		`\n`).MatchString(out) {
		t.Errorf("the plugin does not say version %s:\n%s", version, out)
	}
	checkpoint, counted := countingCheckpoint(t, n)
	image := imageOf(t, n, checkpoint)
	uninstall := func(args ...string) (string, error) {
		cmd := exec.Command(filepath.Join(installed, "share/cri-restore/uninstall.sh"), args...)
		cmd.Env = append(os.Environ(), "CRI_RESTORE_SYSROOT="+root, "CONTAINERD_ADDRESS="+n.Socket())
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	pod := n.Pod(t)
	c := pod.Create("restored", image)
	if out, err := uninstall("--dry-run"); err == nil || !strings.Contains(out, "not started") ||
		!strings.Contains(out, c.ID) {
		t.Errorf("with a container that waits for its restore: %v:\n%s", err, out)
	}
	c.Start()
	requireContinues(t, c, counted)
	if out, err := uninstall("--dry-run"); err != nil || !strings.Contains(out, "run on") || !strings.Contains(out, c.ID) {
		t.Errorf("with a restored container that runs: %v:\n%s", err, out)
	}
	c.Stop(0)
	if out, err := uninstall("--dry-run"); err != nil {
		t.Errorf("with a restored container that has ended: %v:\n%s", err, out)
	}
	if out, err := uninstall(); err == nil || !strings.Contains(out, "still runs") {
		t.Errorf("while containerd of this build runs: %v:\n%s", err, out)
	}
	pod.Remove()
	n.Stop()
	if out, err := uninstall(); err != nil || !strings.Contains(out, "removed") {
		t.Errorf("uninstall: %v:\n%s", err, out)
	}
	err = filepath.WalkDir(root, func(name string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			t.Errorf("left: %s", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// changelogVersion is the number of the newest version in the changelog.
func changelogVersion(t *testing.T) string {
	t.Helper()
	_, rest, _ := strings.Cut(string(content(t, "../docs/CHANGELOG.md")), "\n## ")
	number, _, _ := strings.Cut(rest, " ")
	return number
}

// builtVersion is the version that the programs in a folder were built with.
func builtVersion(t *testing.T, bin string) string {
	t.Helper()
	out := command(t, nil, filepath.Join(bin, "containerd"), "--version")
	_, version, ok := strings.Cut(strings.Fields(out)[2], "+cri-restore.")
	if !ok {
		t.Fatalf("containerd says %q", out)
	}
	return version
}

// archived makes the archive as make dist does, in a folder of its own to which the programs of another are copied:
// with their version there is little to build.
func archived(t *testing.T, from, version string) (bin, archive string) {
	t.Helper()
	repo, err := harness.Repo()
	if err != nil {
		t.Fatal(err)
	}
	bin = filepath.Join(t.TempDir(), "bin")
	if err := os.CopyFS(bin, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	command(t, []string{"MAKEFLAGS="}, "make", "-C", repo, "--no-print-directory", "dist", "BIN="+bin, "VERSION="+version)
	archive = filepath.Join(bin, "dist", "cri-restore-"+version+"-linux-"+runtime.GOARCH+".tar.gz")
	sum := exec.Command("sha256sum", "--check", "--strict", archive+".sha256")
	sum.Dir = filepath.Dir(archive)
	if out, err := sum.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return bin, archive
}

func content(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func command(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
