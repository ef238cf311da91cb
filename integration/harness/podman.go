package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cri-restore/cri-restore/integration/testimage"
)

// Podman is a Podman of a node: with storage, state and cgroups of its own, in the
// node's folder and below its cgroup, and with the node's runc and CRIU. The node's
// teardown ends what it may leave.
type Podman struct {
	t    testing.TB
	n    *Node
	dir  string
	base string
}

// podmanCgroup is the parent of Podman's containers, below the node's cgroup.
const podmanCgroup = "podman"

// podmanDir is Podman's folder in the node's folder for work.
const podmanDir = "podman"

// Podman sets up a Podman and gives it the busybox image, under the name that it has
// on the node. The image comes from a folder: no registry is asked. At the end of
// the test all its containers, mounts and processes are removed, or the test fails.
func (n *Node) Podman(t testing.TB) *Podman {
	t.Helper()
	p := &Podman{t: t, n: n, dir: filepath.Join(n.Dir(), podmanDir), base: n.Image(Busybox)}
	for _, name := range []string{"podman", "conmon", "buildah"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("harness: %v: run make deps", err)
		}
	}
	t.Cleanup(p.remove)
	if err := p.prepare(); err != nil {
		t.Fatalf("harness: set up podman: %v", err)
	}
	return p
}

// In returns the same Podman for a subtest.
func (p *Podman) In(t testing.TB) *Podman {
	in := *p
	in.t = t
	return &in
}

func (p *Podman) prepare() error {
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(p.path("containers.conf"), []byte(p.config()), 0o644); err != nil {
		return err
	}
	// The storage's defaults of the machine are not ours, and it may have none.
	storage := fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n", p.path("root"),
		p.path("run"))
	if err := os.WriteFile(p.path("storage.conf"), []byte(storage), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(p.path("policy.json"), []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`),
		0o644); err != nil {
		return err
	}
	image, err := BusyboxImage()
	if err != nil {
		return err
	}
	if err := testimage.WriteLayout(image, p.path("image"), ""); err != nil {
		return err
	}
	id, err := p.Try("pull", "--quiet", "--signature-policy", p.path("policy.json"), "oci:"+p.path("image"))
	if err != nil {
		return err
	}
	_, err = p.Try("tag", strings.TrimSpace(id), p.base)
	return err
}

// config is containers.conf. Podman asks for higher limits than its caller has unless
// it is told which, and a machine without CAP_SYS_RESOURCE cannot raise them.
func (p *Podman) config() string {
	return fmt.Sprintf(`[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
[engine.runtimes]
runc = [%q]
`, filepath.Join(p.n.tools.Bin, "runc"))
}

// Alias gives the node's runc a further name, for checkpoints that name their runtime.
func (p *Podman) Alias(name string) {
	p.t.Helper()
	line := fmt.Sprintf("%q = [%q]\n", name, filepath.Join(p.n.tools.Bin, "runc"))
	if err := os.WriteFile(p.path("containers.conf"), []byte(p.config()+line), 0o644); err != nil {
		p.t.Fatalf("harness: %v", err)
	}
}

// Run starts a container of the busybox image in the background and returns its ID.
// options are those of "podman run".
func (p *Podman) Run(options []string, command ...string) string {
	p.t.Helper()
	args := append([]string{"run", "--detach", "--pull", "never", "--cgroup-parent", p.Cgroup()}, options...)
	return strings.TrimSpace(p.Must(append(append(args, p.base), command...)...))
}

// Must runs podman and returns its output.
func (p *Podman) Must(args ...string) string {
	p.t.Helper()
	out, err := p.Try(args...)
	if err != nil {
		p.t.Fatalf("harness: %v", err)
	}
	return out
}

// Try is Must for commands that may fail.
func (p *Podman) Try(args ...string) (string, error) {
	args = append([]string{
		"--root", p.path("root"), "--runroot", p.path("run"), "--tmpdir", p.path("tmp"),
		"--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "runc",
	}, args...)
	return p.command("podman", args...)
}

// Checkpointctl runs checkpointctl, which calls buildah to make an image: that image
// lands in Podman's storage.
func (p *Podman) Checkpointctl(args ...string) string {
	p.t.Helper()
	out, err := p.command(filepath.Join(p.n.tools.Bin, "checkpointctl"), args...)
	if err != nil {
		p.t.Fatalf("harness: %v", err)
	}
	return out
}

func (p *Podman) command(program string, args ...string) (string, error) {
	ctx, cancel := callContext(p.t)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "PATH="+p.n.tools.Path(), markerEnv+"="+p.n.id, "TMPDIR="+p.dir,
		"CONTAINERS_CONF="+p.path("containers.conf"), "CONTAINERS_STORAGE_CONF="+p.path("storage.conf"),
		"XDG_CONFIG_HOME="+p.path("config"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", filepath.Base(program), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// Cgroup is the parent of the cgroups of its containers.
func (p *Podman) Cgroup() string { return cgroupOf(p.n.id) + "/" + podmanCgroup }

func (p *Podman) path(name string) string { return filepath.Join(p.dir, name) }

// remove removes the containers, waits for their monitors to end, and the storage.
func (p *Podman) remove() {
	p.t.Helper()
	var errs []error
	if _, err := os.Stat(p.path("root")); err == nil {
		_, err := p.Try("rm", "--all", "--force", "--time", "0")
		errs = append(errs, err)
	}
	var procs []process
	settle(context.Background(), func() bool {
		all, err := processesOf(p.n.id, p.dir)
		if err != nil {
			return true
		}
		procs = nil
		for _, proc := range all {
			if strings.Contains(proc.cmdline, p.dir+"/") {
				procs = append(procs, proc)
			}
		}
		return len(procs) == 0
	})
	if len(procs) > 0 {
		errs = append(errs, fmt.Errorf("podman leaves processes: %v", procs))
	}
	// containers/storage keeps its own folder as a mount point.
	errs = append(errs, unmountAll(p.dir), p.removeCgroups(), removeTree(p.dir))
	if err := errors.Join(errs...); err != nil {
		p.t.Errorf("harness: remove podman: %v", err)
	}
}

// removeCgroups removes the parent of Podman's containers, which nobody else removes.
func (p *Podman) removeCgroups() error {
	cgroups, err := cgroupsOf(p.n.id)
	if err != nil {
		return err
	}
	var errs []error
	for _, cg := range slices.Backward(cgroups) { // what is below it first: the monitors' own
		if cg.child == podmanCgroup || strings.HasPrefix(cg.child, podmanCgroup+"/") {
			errs = append(errs, os.Remove(cg.path))
		}
	}
	return errors.Join(errs...)
}

// WaitLog waits until the log of a container has the text.
func (p *Podman) WaitLog(id, text string) {
	p.t.Helper()
	var log string
	if !settle(p.t.Context(), func() bool {
		log = p.Must("logs", id)
		return strings.Contains(log, text)
	}) {
		p.t.Fatalf("harness: the log of container %s has no %q: %q", id, text, log)
	}
}

// Buildah runs buildah on Podman's storage.
func (p *Podman) Buildah(args ...string) string {
	p.t.Helper()
	out, err := p.command("buildah", args...)
	if err != nil {
		p.t.Fatalf("harness: %v", err)
	}
	return strings.TrimSpace(out)
}

// Push pushes an image of the storage, by its own name, to the node's registry.
func (p *Podman) Push(name string) {
	p.t.Helper()
	p.Must("push", "--quiet", "--tls-verify=false", name)
}
