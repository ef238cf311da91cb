package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// leak makes one leak of a kind and returns how to undo it.
type leak struct {
	kind Kind
	name string // part of the description
	make func(t *testing.T, n *Node) (undo func() error)
}

// TestInventory makes a leak of every kind and expects the inventory to name it: a
// harness that overlooks a leak would make every leak test pass.
func TestInventory(t *testing.T) {
	n := New(t)
	before := n.Inventory(t)
	if got := n.Inventory(t).Diff(before); len(got) > 0 {
		t.Fatalf("two inventories of an idle node differ: %v", got)
	}
	for _, l := range leaks() {
		t.Run(string(l.kind)+" "+l.name, func(t *testing.T) {
			n := n.In(t)
			undo := l.make(t, n)
			got := n.Inventory(t).Diff(before)
			if err := undo(); err != nil {
				t.Fatal(err)
			}
			found := false
			for _, line := range got {
				found = found || strings.HasPrefix(line, string(l.kind)+": ") && strings.Contains(line, l.name)
			}
			if !found {
				t.Errorf("got %q, want a %s with %s in it", got, l.kind, l.name)
			}
			n.RequireNoLeak(t, before)
		})
	}
}

func leaks() []leak {
	file := func(path func(n *Node) string) func(t *testing.T, n *Node) func() error {
		return func(t *testing.T, n *Node) func() error {
			name := path(n)
			must(t, os.MkdirAll(filepath.Dir(name), 0o700))
			must(t, os.WriteFile(name, []byte("x"), 0o600))
			return func() error { return os.Remove(name) }
		}
	}
	return []leak{
		{KindMount, "leaked-tmpfs", func(t *testing.T, n *Node) func() error {
			dir := filepath.Join(n.State(), "leaked-tmpfs")
			must(t, os.MkdirAll(dir, 0o700))
			must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
			return func() error { return unix.Unmount(dir, 0) }
		}},
		{KindMount, "bound-elsewhere", func(t *testing.T, n *Node) func() error {
			dir := filepath.Join(t.TempDir(), "bound-elsewhere")
			must(t, os.MkdirAll(dir, 0o700))
			must(t, unix.Mount(n.Root(), dir, "", unix.MS_BIND, ""))
			return func() error { return unix.Unmount(dir, 0) }
		}},
		{KindSnapshot, "leaked-view", func(t *testing.T, n *Node) func() error {
			sn := n.Client().SnapshotService(n.opts.snapshotter)
			ctx, done, err := n.Client().WithLease(n.Context())
			must(t, err)
			_, err = sn.Prepare(ctx, "leaked-view", "")
			must(t, err)
			return func() error { return done(ctx) }
		}},
		{KindLease, "leaked-lease", func(t *testing.T, n *Node) func() error {
			lease, err := n.Client().LeasesService().Create(n.Context(), leases.WithID("leaked-lease"))
			must(t, err)
			return func() error { return n.Client().LeasesService().Delete(n.Context(), lease) }
		}},
		{KindImage, "leaked/image:1", func(t *testing.T, n *Node) func() error {
			service := n.Client().ImageService()
			base, err := service.Get(n.Context(), n.Image(Busybox))
			must(t, err)
			_, err = service.Create(n.Context(), images.Image{Name: "leaked/image:1", Target: base.Target})
			must(t, err)
			return func() error { return service.Delete(n.Context(), "leaked/image:1", images.SynchronousDelete()) }
		}},
		{KindContent, digest.FromString("leaked").String(), func(t *testing.T, n *Node) func() error {
			ctx, done, err := n.Client().WithLease(n.Context())
			must(t, err)
			must(t, content.WriteBlob(ctx, n.Client().ContentStore(), "leaked-content", strings.NewReader("leaked"),
				ocispec.Descriptor{Digest: digest.FromString("leaked"), Size: 6}))
			return func() error { return done(ctx) }
		}},
		{KindIngest, "leaked-ingest", func(t *testing.T, n *Node) func() error {
			ctx, done, err := n.Client().WithLease(n.Context())
			must(t, err)
			store := n.Client().ContentStore()
			w, err := store.Writer(ctx, content.WithRef("leaked-ingest"))
			must(t, err)
			must(t, w.Close())
			return func() error {
				if err := store.Abort(ctx, "leaked-ingest"); err != nil {
					return err
				}
				return done(ctx)
			}
		}},
		{KindContainer, "leaked-container", func(t *testing.T, n *Node) func() error {
			store := n.Client().ContainerService()
			_, err := store.Create(n.Context(), containers.Container{
				ID: "leaked-container", Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"},
			})
			must(t, err)
			return func() error { return store.Delete(n.Context(), "leaked-container") }
		}},
		{KindSandbox, "containerd leaked-sandbox", func(t *testing.T, n *Node) func() error {
			store := n.Client().SandboxStore()
			_, err := store.Create(n.Context(), sandbox.Sandbox{ID: "leaked-sandbox", Sandboxer: "podsandbox"})
			must(t, err)
			return func() error { return store.Delete(n.Context(), "leaked-sandbox") }
		}},
		{KindSandbox, "CRI leaked-pod", func(t *testing.T, n *Node) func() error {
			pod := n.Pod(t, PodName("leaked-pod"))
			return func() error { return n.removePod(pod.ID) }
		}},
		{KindNetwork, "of ", func(t *testing.T, n *Node) func() error {
			pod := n.Pod(t)
			return func() error { return n.removePod(pod.ID) }
		}},
		{KindNetwork, "veth", func(t *testing.T, n *Node) func() error {
			pod := n.Pod(t)
			return func() error { return n.removePod(pod.ID) }
		}},
		{KindCRI, "leaked-counter", func(t *testing.T, n *Node) func() error {
			pod := n.Pod(t)
			pod.Create("leaked-counter", n.Image(Busybox), Counting())
			return func() error { return n.removePod(pod.ID) }
		}},
		{KindProcess, "sleep 600", func(t *testing.T, n *Node) func() error {
			pod := n.Pod(t)
			pod.Run("sleeper", n.Image(Busybox), Command("/bin/sleep", "600"))
			return func() error { return n.removePod(pod.ID) }
		}},
		{KindProcess, "containerd-shim-runc-v2", func(t *testing.T, n *Node) func() error {
			pod := n.Pod(t)
			return func() error { return n.removePod(pod.ID) }
		}},
		{KindProcess, "sleep 601", func(t *testing.T, n *Node) func() error {
			cmd := exec.Command("sleep", "601")
			cmd.Env = []string{markerEnv + "=" + n.id}
			must(t, cmd.Start())
			return func() error {
				err := cmd.Process.Kill()
				_ = cmd.Wait()
				return err
			}
		}},
		{KindCgroup, "leaked-cgroup", func(t *testing.T, n *Node) func() error {
			mounts, err := cgroupMounts()
			must(t, err)
			dir := filepath.Join(mounts[0], n.CgroupRoot(), "leaked-cgroup")
			must(t, os.MkdirAll(dir, 0o755))
			return func() error { return unix.Rmdir(dir) }
		}},
		{KindFile, "plugin-state", file(func(n *Node) string {
			return filepath.Join(n.State(), restorePlugin,
				"plugin-state")
		})},
		{KindFile, "plugin-root", file(func(n *Node) string {
			return filepath.Join(n.Root(), restorePlugin,
				"plugin-root")
		})},
		{KindFile, "runc-state", file(func(n *Node) string { return filepath.Join(n.RuncRoot(), "runc-state") })},
		{KindFile, "temporary", file(func(n *Node) string { return n.path("tmp", "temporary") })},
		{KindFile, "netns", file(func(n *Node) string {
			return filepath.Join(n.State(), "io.containerd.grpc.v1.cri", "netns", "cni-leaked")
		})},
		{KindFile, "tasks", file(func(n *Node) string {
			return filepath.Join(n.State(), "io.containerd.runtime.v2.task", k8sNamespace, "tasks")
		})},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDiff(t *testing.T) {
	base, now := Inventory{}, Inventory{}
	base.add(KindLease, "gone", "")
	base.add(KindMount, "/a", "")
	now.add(KindMount, "/a", "/a (tmpfs)")
	now.add(KindMount, "/a", "/a (overlay)")
	want := fmt.Sprint([]string{"mount: /a (overlay)"})
	if got := fmt.Sprint(now.Diff(base)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A container whose shell starts one process after the other leaks none of them; one that stays is seen.
func TestPassingProcesses(t *testing.T) {
	baseline := Inventory{KindProcess: {"1@10": "sh"}, KindMount: {}}
	first := Inventory{KindProcess: {"1@10": "sh", "2@20": "sleep"}, KindMount: {"/a": "/a"}}
	second := Inventory{KindProcess: {"1@10": "sh", "3@30": "sleep"}, KindMount: {"/a": "/a"}}
	if got := first.withoutPassing(nil).Diff(baseline); len(got) != 2 {
		t.Errorf("at first: %q, want the process and the mount", got)
	}
	if got := second.withoutPassing(first).Diff(baseline); len(got) != 1 || !strings.Contains(got[0], "/a") {
		t.Errorf("then: %q, want the mount", got)
	}
	second[KindProcess]["2@20"] = "sleep"
	if got := second.withoutPassing(first).Diff(baseline); len(got) != 2 ||
		!strings.Contains(strings.Join(got, " "), "sleep") {
		t.Errorf("a process that stays: %q", got)
	}
	if len(second[KindProcess]) != 3 {
		t.Error("the inventory itself was changed")
	}
}
