package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/typeurl/v2"
	"github.com/moby/sys/mountinfo"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// manyFiles is a number of files that takes a good part of a second to write.
const manyFiles = 20_000

// slowDiff is a checkpoint whose changes of the root file system take long to apply, all of
// them after containerd has created the container.
func slowDiff(t testing.TB, n *harness.Node, honest []tarEntry) string {
	t.Helper()
	var diff []tarEntry
	for i := range manyFiles {
		diff = append(diff, regularEntry(fmt.Sprintf("many/%d", i), ""))
	}
	return doctoredArchive(t, n, withEntries(honest,
		regularEntry("rootfs-diff.tar", string(gzipBytes(t, packed(t, diff))))))
}

// slowUnpack is a checkpoint that takes long to unpack.
func slowUnpack(t testing.TB, n *harness.Node, honest []tarEntry) string {
	t.Helper()
	all := slices.Clone(honest)
	for i := range manyFiles {
		all = append(all, regularEntry(fmt.Sprintf("checkpoint/unknown-%d.img", i), ""))
	}
	return doctoredArchive(t, n, all)
}

// diffMounted says that changes are just being applied to a root file system.
func diffMounted(n *harness.Node) func() bool {
	return func() bool {
		mounts, _ := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
			return !strings.HasPrefix(m.Mountpoint, filepath.Join(n.State(), restorePlugin)) ||
				filepath.Base(m.Mountpoint) != "rootfs", false
		})
		return len(mounts) > 0
	}
}

// unpacking says that an archive is just being unpacked.
func unpacking(n *harness.Node) func() bool {
	return func() bool {
		found, _ := filepath.Glob(filepath.Join(n.Root(), restorePlugin, "*", "archive", "checkpoint", "unknown-*"))
		return len(found) > 0
	}
}

// createUntil begins to create a container and acts at the moment, which has to come
// before the end. It returns what the create returns.
func createUntil(t *testing.T, pod *harness.Pod, name, image string, come func() bool, act func()) error {
	t.Helper()
	return createUntilIn(t.Context(), t, pod, name, image, come, act)
}

func createUntilIn(ctx context.Context, t *testing.T, pod *harness.Pod, name, image string, come func() bool,
	act func()) error {
	t.Helper()
	client := pod.Node().Runtime()
	result := make(chan error, 1)
	go func() {
		_, err := client.CreateContainer(ctx, &runtime.CreateContainerRequest{
			PodSandboxId: pod.ID, SandboxConfig: pod.Config, Config: &runtime.ContainerConfig{
				Metadata: &runtime.ContainerMetadata{Name: name}, Image: &runtime.ImageSpec{Image: image}, LogPath: name + "_0.log",
				Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{
					NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
				}},
			},
		})
		result <- err
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !come() {
		select {
		case err := <-result:
			t.Fatalf("the create was over before: %v", err)
		case <-tick.C:
		}
	}
	act()
	select {
	case err := <-result:
		return err
	case <-time.After(2 * time.Minute): // as long as the kubelet waits
		t.Fatal("the create does not return")
		return nil
	}
}

// containersNamed returns the containers that CRI has by this name.
func containersNamed(t *testing.T, n *harness.Node, name string) (found []*runtime.Container) {
	t.Helper()
	list, err := n.Runtime().ListContainers(n.Context(), &runtime.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list.GetContainers() {
		if c.GetMetadata().GetName() == name {
			found = append(found, c)
		}
	}
	return found
}

// TestCrashDuringCreate kills containerd while an archive is unpacked, and while changes
// are applied to the root file system of a container that CRI has already. Such a container
// must never start fresh.
func TestCrashDuringCreate(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	archive, counted := countingCheckpoint(t, n)
	honest := entriesOf(t, archive)
	pod := n.Pod(t)
	before := n.Inventory(t)

	err := createUntil(t, pod, "counter", slowUnpack(t, n, honest), unpacking(n), n.Kill)
	if err == nil {
		t.Error("the create succeeded without containerd")
	}
	n.Start()
	if found := containersNamed(t, n, "counter"); len(found) > 0 {
		t.Errorf("containers: %v, want none", found)
	}
	n.RequireNoLeak(t, before)
	twin := pod.Run("counter", archive)
	requireContinues(t, twin, counted)
	twin.Remove()
	forgetLog(t, twin)

	for _, use := range []string{"start", "remove"} {
		if err := createUntil(t, pod, "counter", slowDiff(t, n, honest), diffMounted(n), n.Kill); err == nil {
			t.Error("the create succeeded without containerd")
		}
		n.Start()
		found := containersNamed(t, n, "counter")
		if len(found) != 1 || found[0].GetState() != runtime.ContainerState_CONTAINER_CREATED {
			t.Fatalf("containers: %v, want one that is CREATED", found)
		}
		if diffMounted(n)() {
			t.Error("the root file system is still mounted")
		}
		id := found[0].GetId()
		if use == "start" {
			_, err = n.Runtime().StartContainer(n.Context(), &runtime.StartContainerRequest{ContainerId: id})
			requireRefused(t, err, codes.FailedPrecondition, id, "remove it and create it again")
			if left := inCgroupOf(id); len(left) > 0 {
				t.Errorf("processes of a container that must not run: %v", left)
			}
		}
		if _, err := n.Runtime().RemoveContainer(n.Context(), &runtime.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		n.RequireNoLeak(t, before)
		twin := pod.Run("counter", archive)
		requireContinues(t, twin, counted)
		twin.Remove()
		forgetLog(t, twin)
		n.RequireNoLeak(t, before)
	}
}

// TestCrashBeforeRecord takes the record away from a container that is to be restored:
// what a crash right after containerd's part of the create would leave, by any timing.
func TestCrashBeforeRecord(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	archive, counted := countingCheckpoint(t, n)
	ref := imageOf(t, n, archive)
	pod := n.Pod(t)
	before := n.Inventory(t)
	for _, source := range []string{archive, ref} {
		c := pod.Create("counter", source)
		forgetRecord(t, n, c.ID)
		n.Kill()
		n.Start()
		if got := c.Status().GetState(); got != runtime.ContainerState_CONTAINER_CREATED {
			t.Errorf("state: %s, want CREATED", got)
		}
		requireRefused(t, c.TryStart(), codes.FailedPrecondition, c.ID, "remove it and create it again")
		c.Remove()
		forgetLog(t, c)
		n.RequireNoLeak(t, before)
		twin := pod.Run("counter", source)
		requireContinues(t, twin, counted)
		twin.Remove()
		forgetLog(t, twin)
		n.RequireNoLeak(t, before)
	}
}

// forgetRecord takes away from containerd's container what the plugin puts there when the container is ready. What was
// there from its first moment stays. containerd forgets no extension that it once had, so the container is made anew.
func forgetRecord(t *testing.T, n *harness.Node, id string) {
	t.Helper()
	ctx := n.Context()
	store, manager := n.Client().ContainerService(), n.Client().LeasesService()
	c, err := store.Get(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	lease, err := manager.Create(ctx, leases.WithID(unique("keep")))
	if err == nil {
		err = manager.AddResource(ctx, lease, leases.Resource{ID: c.SnapshotKey, Type: "snapshots/" + c.Snapshotter})
	}
	if err != nil {
		t.Fatal(err)
	}
	before := len(c.Labels) + len(c.Extensions)
	maps.DeleteFunc(c.Labels, func(key, _ string) bool { return strings.Contains(key, "gc.ref.snapshot") })
	maps.DeleteFunc(c.Extensions, func(key string, _ typeurl.Any) bool { return key == "org.criu.restore/record" })
	if len(c.Labels)+len(c.Extensions) > before-1 || c.Extensions["org.criu.restore/origin"] == nil {
		t.Fatalf("container %s has no record: %v", id, c)
	}
	err = store.Delete(ctx, id)
	if err == nil {
		_, err = store.Create(ctx, c)
	}
	if err == nil {
		err = manager.Delete(ctx, lease)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestCrashDuringPull kills containerd while the base image is pulled. What the pull
// itself leaves is the same as with any pull: containerd lets it expire.
func TestCrashDuringPull(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	img := workloadImage(t, n)
	checkpointed := n.Pod(t)
	c := checkpointed.Run("threads", img, workload("threads"))
	counted := waitOK(t, c, 2)
	archive := checkpointOf(t, c)
	checkpointed.Remove()
	ref := publishedImageOf(t, n, archive, "")
	id := n.ImageStatus(img).GetId()
	n.RemoveImage(id)
	built, err := buildWorkloadImage()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := built.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[len(layers)-1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	pod := n.Pod(t)
	before := n.Inventory(t)
	for _, source := range []string{archive, ref} {
		release := n.Registry().Hold(digest.Hex)
		n.Registry().ResetRequests()
		// The config comes when the manifest has: then the layer is asked for too.
		come := func() bool { return n.Registry().Downloads("/blobs/") > 0 }
		if err := createUntil(t, pod, "threads", source, come, n.Kill); err == nil {
			t.Error("the create succeeded without containerd")
		}
		n.Start()
		if found := containersNamed(t, n, "threads"); len(found) > 0 {
			t.Errorf("containers: %v, want none", found)
		}
		for _, leak := range n.Inventory(t).Diff(before) {
			kind, _, _ := strings.Cut(leak, ":")
			if kind != string(harness.KindLease) && kind != string(harness.KindIngest) && kind != string(harness.KindContent) ||
				strings.Contains(leak, "restore") {
				t.Errorf("left: %s", leak)
			}
		}
		release()
		twin := pod.Run("threads", source, workload("threads"))
		requireOKContinues(t, twin, counted)
		twin.Remove()
		forgetLog(t, twin)
		n.RemoveImage(id)
		expireLeases(t, n, before)
		n.RequireNoLeak(t, before)
	}
}

// expireLeases does what containerd does in a day: it ends the leases of pulls that a
// crash has cut off.
func expireLeases(t *testing.T, n *harness.Node, before harness.Inventory) {
	t.Helper()
	manager := n.Client().LeasesService()
	found, err := manager.List(n.Context())
	if err != nil {
		t.Fatal(err)
	}
	var errs []error
	for _, lease := range found {
		if !slices.Contains(before.Keys(harness.KindLease), lease.ID) {
			if lease.Labels["containerd.io/gc.expire"] == "" {
				t.Errorf("lease %s does not expire: %v", lease.ID, lease.Labels)
			}
			errs = append(errs, manager.Delete(n.Context(), leases.Lease{ID: lease.ID}))
		}
	}
	// And what had come of a blob.
	ingests, err := n.Client().ContentStore().ListStatuses(n.Context())
	errs = append(errs, err)
	for _, in := range ingests {
		errs = append(errs, n.Client().ContentStore().Abort(n.Context(), in.Ref))
	}
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}
