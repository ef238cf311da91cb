package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/guard"
)

// out leads from CRIU's directory of images, which it has open as this descriptor while it opens files, to the host's
// root.
const out = "/proc/self/fd/126/../../../../../../../../../../../../../.."

// TestGuardLinks has somebody else replace a directory of a volume by a link between the creation of a container and
// its start. CRIU, which would open what is behind it as the host's root, does not follow it, on a node that only
// audits neither.
func TestGuardLinks(t *testing.T) {
	t.Parallel()
	for mode, config := range map[string]string{"strict": allowArchives, "audit": broughtToCRIU} {
		t.Run(mode, func(t *testing.T) {
			n := harness.New(t, harness.WithRestoreConfig(config))
			for what, script := range map[string]string{
				"open":    `exec 3<>/mnt/d/victim; `,
				"deleted": `echo x >/mnt/d/gone; exec 3<>/mnt/d/gone; rm /mnt/d/gone; `,
			} {
				t.Run(what, func(t *testing.T) { testGuardLinks(t, n.In(t), script) })
			}
		})
	}
}

func testGuardLinks(t *testing.T, n *harness.Node, script string) {
	volume, host := t.TempDir(), t.TempDir()
	dir := filepath.Join(volume, "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, host} {
		writeFile(t, filepath.Join(d, "victim"), "of "+filepath.Base(host)+"\n")
	}
	g := newGrant(t, n, harness.Mount(volume, "/mnt", false),
		harness.Shell(script+`i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`))
	for what, target := range map[string]string{"to the host": out + host, "in the volume": "elsewhere"} {
		t.Run(what, func(t *testing.T) {
			before := n.Inventory(t)
			c := g.pod.Create("victim", g.archive, g.opts...)
			if err := os.Rename(dir, filepath.Join(volume, "elsewhere")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, dir); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
				if err := os.Rename(filepath.Join(volume, "elsewhere"), dir); err != nil {
					t.Error(err)
				}
			}()
			if text := requireCRIUFailed(t, c); !strings.Contains(text, "Too many levels of symbolic links") {
				t.Errorf("it failed for another reason: %s", text)
			}
			c.Remove()
			forgetLog(t, c)
			n.RequireNoLeak(t, before)
		})
	}
	if names := fileNames(t, host); len(names) != 1 {
		t.Errorf("on the host: %q", names)
	}
	g.accepts(t, g.archive, nil)
}

// TestGuardFollows restores processes that open files through links at every moment: none may ever see that CRIU must
// not.
func TestGuardFollows(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(lazyOn))
	eager := harness.New(t, harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(lazyOff))
	volume := t.TempDir()
	writeFile(t, filepath.Join(volume, "file"), "of the volume\n")
	if err := os.Symlink("file", filepath.Join(volume, "link")); err != nil {
		t.Fatal(err)
	}
	for mode, n := range map[string]*harness.Node{"lazily": n, "eagerly": eager} {
		t.Run(mode, func(t *testing.T) {
			opts := []harness.ContainerOpt{harness.Mount(volume, "/mnt", true),
				harness.Shell("ln -s /bin/busybox /link && exec /bin/workload links 3 /mnt/link /link /dev/fd/0 /proc/self/exe")}
			pod := n.Pod(t)
			c := pod.Run("links", workloadImage(t, n), opts...)
			counted := waitOK(t, c, 5)
			archive := checkpointOf(t, c)
			pod.Remove()
			pod = n.Pod(t)
			restored := pod.Run("restored", archive, opts...)
			requireOKContinues(t, restored, counted)
			if mounts := restored.Exec("cat", "/proc/self/mountinfo"); strings.Contains(mounts, "nosymfollow") {
				t.Errorf("links are not followed any more:\n%s", mounts)
			}
			// The container's CRIU configuration is no longer that of a restore.
			again := checkpointOf(t, restored)
			restored.Remove()
			forgetLog(t, restored)
			requireOKContinues(t, pod.Run("again", again, opts...), counted)
		})
	}
}

// noLinks is an NRI plugin that gives containers a volume in which links are not followed.
type noLinks struct{ volume string }

func (o *noLinks) CreateContainer(context.Context, *api.PodSandbox, *api.Container) (*api.ContainerAdjustment,
	[]*api.ContainerUpdate, error) {
	adjust := &api.ContainerAdjustment{}
	adjust.AddMount(&api.Mount{Destination: "/nolinks", Type: "bind", Source: o.volume,
		Options: []string{"bind", "ro", "nosymfollow"}})
	return adjust, nil, nil
}

// TestGuardKeeps restores a container with a volume in which links are not followed, and must not be afterwards.
func TestGuardKeeps(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	volume := t.TempDir()
	writeFile(t, filepath.Join(volume, "file"), "x")
	if err := os.Symlink("file", filepath.Join(volume, "link")); err != nil {
		t.Fatal(err)
	}
	plugin, err := stub.New(&noLinks{volume}, stub.WithSocketPath(filepath.Join(filepath.Dir(n.Socket()), "nri.sock")),
		stub.WithPluginName("nolinks"), stub.WithPluginIdx("10"), stub.WithOnClose(func() {}))
	if err != nil {
		t.Fatal(err)
	}
	if err := plugin.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer plugin.Stop()
	g := newGrant(t, n, harness.Mount(volume, "/links", true))
	g.accepts(t, g.archive, func(c *harness.Container) {
		ordinary := g.pod.Run("ordinary", n.Image(harness.Busybox),
			append([]harness.ContainerOpt{harness.Counting()}, g.opts...)...)
		sameMounts(t, c, ordinary)
		ordinary.Remove()
		forgetLog(t, ordinary)
		if _, stderr, code, err := c.TryExec("cat", "/nolinks/link"); err != nil || code == 0 ||
			!strings.Contains(stderr, "Too many levels") && !strings.Contains(stderr, "loop") {
			t.Errorf("a link in the pod's volume: %q, %d, %v", stderr, code, err)
		}
		c.Exec("cat", "/links/link")
	})
}

// TestGuardMissing has a node without the program: it restores nothing and says why. One whose program goes away fails
// the restores that are begun, and no process has run then.
func TestGuardMissing(t *testing.T) {
	t.Parallel()
	// Our programs in a place of their own, in which some can be missing.
	tools, bin := harness.Require(t), t.TempDir()
	for _, name := range fileNames(t, tools.Bin) {
		if name == "containerd" || name == guard.Program {
			copyFile(t, filepath.Join(tools.Bin, name), filepath.Join(bin, name))
		} else if err := os.Symlink(filepath.Join(tools.Bin, name), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	path := "PATH=" + bin + ":" + filepath.Dir(tools.CRIU) +
		":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	n := harness.New(t, harness.WithBinary(filepath.Join(bin, "containerd")), harness.WithEnv(path),
		harness.WithRestoreConfig(allowArchives))
	requirePlugin(t, n, "ok", "guard_path "+filepath.Join(bin, guard.Program))
	archive, counted := countingCheckpoint(t, n)
	pod := n.Pod(t)
	prepared, started := pod.Create("prepared", archive), pod.Create("started", archive)
	program := filepath.Join(bin, guard.Program)
	if err := os.Rename(program, program+".away"); err != nil {
		t.Fatal(err)
	}
	if text := requireCRIUFailed(t, started); !strings.Contains(text, guard.Program) {
		t.Errorf("the error does not name the program: %s", text)
	}
	requireSilent(t, started)
	n.Reconfigure()
	requirePlugin(t, n, "skip", guard.Program, "install it beside containerd")
	ordinary(t, pod, n.Image(harness.Busybox)).Remove()
	refused(t, pod, archive, codes.FailedPrecondition, archive, "cannot restore", guard.Program)
	requireRefused(t, prepared.TryStart(), codes.FailedPrecondition, "cannot restore", guard.Program)
	if err := os.Rename(program+".away", program); err != nil {
		t.Fatal(err)
	}
	n.Reconfigure()
	requirePlugin(t, n, "ok")
	prepared.Start()
	requireContinues(t, prepared, counted)
}

// requireSilent fails the test if a restored container has said anything since it was checkpointed.
func requireSilent(t *testing.T, c *harness.Container) {
	t.Helper()
	if lines := c.LogLines(); len(lines) > oldLines(t, c) {
		t.Errorf("it has run: %v", lines[oldLines(t, c):])
	}
}
