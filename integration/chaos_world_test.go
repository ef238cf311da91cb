package integration

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/image"
)

const (
	chaosConfig = allowArchives + "\nallow_checkpoint_images = true\npod_annotations = [\"lazy-pages\"]\n" + lazyOff + "\n"
	// chaosImage is the checkpoint image that rounds restore from.
	chaosImage = "checkpoint.example/chaos:1"
	// chaosDump is the one that rounds make.
	chaosDump = "checkpoint.example/chaos-dump:1"
)

// chaosWorld is a node in which rounds of the chaos test do harm, and what they must not harm: a volume, a container
// that runs all the time, and its root file system and all others.
type chaosWorld struct {
	n         *harness.Node
	workload  string
	archive   string
	pulled    string // a checkpoint image that is only in the registry
	counted   int
	volume    string
	bystander *harness.Container
	base      harness.Inventory
	host      *heapCheckpoint // its hashes
	disk      bool            // of its own
	daemon    int
	held      map[string]int // containerd's descriptors
}

func newChaosWorld(t *testing.T, opts ...harness.Option) *chaosWorld {
	t.Helper()
	n := harness.New(t, append([]harness.Option{harness.WithRestoreConfig(chaosConfig)}, opts...)...)
	w := &chaosWorld{n: n, workload: workloadImage(t, n), volume: filepath.Join(n.Dir(), "volume")}
	for _, name := range []string{"a", "b/c", "b/d/e"} {
		writeHostFile(t, filepath.Join(w.volume, name), "file "+name+" of the volume")
	}
	pod := n.Pod(t)
	c := pod.Run("pages", w.workload, workload("pages", "32", "2"), w.mount())
	c.Exec("sh", "-c", "echo changed > /data/changed; mkdir -p /new/dir; echo new > /new/dir/file")
	w.counted = waitOK(t, c, 2)
	w.archive = checkpointOf(t, c)
	pod.Remove()
	w.publish(t)
	w.pulled, _ = pushedImageOf(t, n, edited(t, w.archive, map[string]edit{"container.log": func(b []byte) ([]byte, bool) {
		return append(b, "2026-01-01T00:00:00.000000000Z stdout F another image\n"...), true
	}}))
	w.bystander = n.Pod(t).Run("bystander", w.workload, workload("threads"), w.mount())
	w.bystander.Exec("sh", "-c", "mkdir -p /mine/of; echo bystander > /mine/of/file")
	waitOK(t, w.bystander, 1)
	w.host = &heapCheckpoint{n: n, volume: w.volume}
	w.measure(t)
	return w
}

// measure makes the present state the one that every round has to end with.
func (w *chaosWorld) measure(t *testing.T) {
	t.Helper()
	w.n.Baseline()
	w.base = w.n.Inventory(t)
	w.host.host = w.host.hashes(t)
	w.daemon, w.held = w.n.DaemonPid(), descriptorsOf(w.n.DaemonPid())
}

// publish makes the checkpoint image of the archive.
func (w *chaosWorld) publish(t *testing.T) {
	t.Helper()
	n := w.n.In(t)
	if _, err := image.Publish(n.Context(), n.Client(), "", chaosImage, w.archive,
		image.BuildOptions{TempDir: n.Dir()}); err != nil {
		t.Fatalf("publish %s: %v", chaosImage, err)
	}
}

func (w *chaosWorld) mount() harness.ContainerOpt { return harness.Mount(w.volume, "/volume", false) }

// pod is the same pod every time, by name and UID: a name that stays reserved is seen by the next round.
func (w *chaosWorld) pod(t *testing.T, lazy bool) *harness.Pod {
	t.Helper()
	opts := []harness.PodOpt{harness.PodName("victim"), harness.PodUID("7c2a1d5e-0000-4000-8000-0000000000c4")}
	if lazy {
		opts = append(opts, harness.PodAnnotation("org.criu.restore/lazy-pages", "on"))
	}
	return w.n.Pod(t, opts...)
}

func (w *chaosWorld) config(source string) *runtime.ContainerConfig {
	config := &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "victim"}, Image: &runtime.ImageSpec{Image: source},
		LogPath: "victim_0.log",
		Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{
			NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
		}},
	}
	w.mount()(config)
	return config
}

// clean is the ordinary clean-up through CRI, as a kubelet does it: again until it succeeds.
func (w *chaosWorld) clean(t *testing.T, pod *harness.Pod) {
	t.Helper()
	r, ctx := w.n.Runtime(), w.n.In(t).Context()
	var errs []error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		_, err := r.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: pod.ID})
		if err == nil {
			_, err = r.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: pod.ID})
		}
		if err == nil {
			for _, err := range errs {
				t.Logf("clean-up has failed before it succeeded: %v", err)
			}
			return
		}
		errs = append(errs, err)
		<-time.After(500 * time.Millisecond)
	}
	t.Fatalf("the clean-up through CRI fails: %v", errors.Join(errs...))
}

// forget takes away what stock containerd leaves as well: sockets of shims that were killed, leases and ingests of
// pulls that were cut off, which expire in a day.
func (w *chaosWorld) forget(t *testing.T, op *chaosOperation, fault string) {
	t.Helper()
	n := w.n.In(t)
	if fault == "shim" || fault == "pod" || op.starts {
		forgetSockets(t, n, w.base)
	}
	if fault == "containerd" {
		// containerd gives a bundle a hidden name before it deletes it, and never looks at those again.
		hidden, err := filepath.Glob(filepath.Join(n.State(), "io.containerd.runtime.v2.task", "k8s.io", ".*"))
		for _, dir := range hidden {
			if mounts, merr := mountinfo.GetMounts(mountinfo.PrefixFilter(dir)); merr != nil || len(mounts) > 0 {
				t.Errorf("mounted below %s: %v, %v", dir, mounts, merr)
				continue
			}
			err = errors.Join(err, os.RemoveAll(dir))
		}
		if err != nil {
			t.Error(err)
		}
	}
	if fault == "pod" {
		// Of a pod that is stopped while a container is started in it stock containerd sometimes leaves the cgroup. A
		// kubelet removes all of a pod's. One with a process in it cannot be removed.
		for _, dir := range slices.Backward(n.Inventory(t).Keys(harness.KindCgroup)) {
			if !slices.Contains(w.base.Keys(harness.KindCgroup), dir) {
				_ = os.Remove(dir)
			}
		}
	}
	if op.pulls {
		expireLeases(t, n, w.base)
		n.Registry().Disconnect() // which containerd keeps for a while
	}
}

// requireSame checks that everything is as before the round.
func (w *chaosWorld) requireSame(t *testing.T) {
	t.Helper()
	n := w.n.In(t)
	now := n.Inventory(t)
	if len(now.Diff(w.base)) > 0 {
		n.RequireNoLeak(t, w.base) // after a while
		now = n.Inventory(t)
	}
	if lost := w.base.Diff(now); len(lost) > 0 {
		t.Errorf("lost:\n  %s", strings.Join(lost, "\n  "))
	}
	w.host.requireIntact(t)
	requireOnly(t, filepath.Join(n.Dir(), "dumps"))
	said := numbers(w.bystander.Log(), "ok")
	waitOK(t, w.bystander, said[len(said)-1]+1) // or it stands still
	if w.n.DaemonPid() != w.daemon {
		w.daemon, w.held = w.n.DaemonPid(), descriptorsOf(w.n.DaemonPid())
		return
	}
	var held map[string]int
	come := time.NewTimer(15 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		held = descriptorsOf(w.daemon)
		if len(moreThan(held, w.held)) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-come.C:
			t.Errorf("containerd's descriptors: %v", moreThan(held, w.held))
			w.held = held
			return
		}
	}
}

// requireRestores shows that the next restore works.
func (w *chaosWorld) requireRestores(t *testing.T, source string, lazy bool, counted int) {
	t.Helper()
	pod := w.pod(t, lazy)
	resp, err := w.n.Runtime().CreateContainer(w.n.In(t).Context(),
		&runtime.CreateContainerRequest{PodSandboxId: pod.ID, SandboxConfig: pod.Config, Config: w.config(source)})
	if err != nil {
		t.Fatalf("the next create: %v", err)
	}
	c := w.container(t, pod, resp.GetContainerId(), source)
	c.Start()
	requireOKContinues(t, c, counted)
	inside := c.Exec("sh", "-c", fingerprintScript)
	if source == w.archive || source == chaosImage {
		if w.host.inside == "" {
			w.host.inside = inside
		}
		if inside != w.host.inside {
			t.Errorf("root file system: got\n%s\nwant\n%s", inside, w.host.inside)
		}
	}
	w.clean(t, pod)
	forgetLog(t, c)
}

// container is the pod's container for the harness.
func (w *chaosWorld) container(t *testing.T, pod *harness.Pod, id, source string) *harness.Container {
	t.Helper()
	return pod.Container(id, w.config(source))
}

// descriptorsOf counts a process' descriptors by what they are.
func descriptorsOf(pid int) map[string]int {
	held := map[string]int{}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue
		}
		if kind, _, ok := strings.Cut(target, ":["); ok && !strings.HasPrefix(target, "/") {
			target = kind + ":[" + map[bool]string{true: strings.TrimPrefix(target, "anon_inode:["),
				false: "]"}[kind == "anon_inode"]
		}
		held[target]++
	}
	return held
}

// moreThan says what of it is held more often than before.
func moreThan(now, before map[string]int) (more []string) {
	for _, what := range slices.Sorted(maps.Keys(now)) {
		if now[what] > before[what] {
			more = append(more, fmt.Sprintf("%s: %d, before %d", what, now[what], before[what]))
		}
	}
	return more
}
