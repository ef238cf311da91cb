package integration

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestCrashPod takes the pod away from restored containers, in whatever state they are.
func TestCrashPod(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(broughtToCRIU))
	archive, counted := countingCheckpoint(t, n)
	ref := imageOf(t, n, archive)
	bad := broken(t, archive, brokenImages[0].file, brokenImages[0].change)
	before := n.Inventory(t)
	for _, stopped := range []bool{true, false} {
		pod := n.Pod(t)
		var all []*harness.Container
		for _, source := range []string{archive, ref} {
			created := pod.Create(unique("created"), source)
			running := pod.Run(unique("running"), source)
			requireContinues(t, running, counted)
			exited := pod.Run(unique("exited"), source)
			exited.Stop(0)
			exited.WaitExited()
			all = append(all, created, running, exited)
		}
		failed := pod.Create("failed", bad)
		if err := failed.TryStart(); err == nil {
			t.Error("a broken checkpoint was restored")
		}
		all = append(all, failed)
		if stopped {
			pod.Stop()
			for _, c := range all {
				if got := c.Status().GetState(); got == runtime.ContainerState_CONTAINER_RUNNING {
					t.Errorf("%s still runs without its pod", c.Config.GetMetadata().GetName())
				}
			}
			// A restore does not start where an ordinary container does not.
			if err := all[0].TryStart(); err == nil {
				t.Error("a container was restored into a pod that has stopped")
			}
			pod.Remove()
		} else {
			// As crictl rmp -f does, and a kubelet in a hurry: all at once.
			if _, err := n.Runtime().RemovePodSandbox(n.Context(),
				&runtime.RemovePodSandboxRequest{PodSandboxId: pod.ID}); err != nil {
				t.Errorf("remove the pod: %v", err)
			}
		}
		n.RequireNoLeak(t, before)
	}
}

// TestCrashPodDuringCreate removes the pod, or the container, while it is still being
// created, and lets the caller give up.
func TestCrashPodDuringCreate(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	archive, counted := countingCheckpoint(t, n)
	honest := entriesOf(t, archive)
	unpack, diff := slowUnpack(t, n, honest), slowDiff(t, n, honest)
	before := n.Inventory(t)
	for _, tc := range []struct {
		name, image string
		come        func() bool
		act         func(*harness.Pod)
	}{
		{"pod, unpacking", unpack, unpacking(n), (*harness.Pod).Remove},
		{"pod, root file system", diff, diffMounted(n), (*harness.Pod).Remove},
		{"container, root file system", diff, diffMounted(n), func(*harness.Pod) {
			for _, c := range containersNamed(t, n, "counter") {
				if _, err := n.Runtime().RemoveContainer(n.Context(),
					&runtime.RemoveContainerRequest{ContainerId: c.GetId()}); err != nil {
					t.Errorf("remove the container: %v", err)
				}
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := n.Pod(t)
			err := createUntil(t, pod, "counter", tc.image, tc.come, func() { tc.act(pod) })
			if err == nil {
				t.Error("the create succeeded all the same")
			}
			if found := containersNamed(t, n, "counter"); len(found) > 0 {
				t.Errorf("containers: %v, want none", found)
			}
			pod.Remove()
			// containerd has deleted the snapshot while files were still written to it. What
			// it could not delete it tries again when it deletes the next one.
			n.Pod(t).Remove()
			n.RequireNoLeak(t, before)
		})
	}
	t.Run("start, root file system", func(t *testing.T) {
		// Who is in such a hurry gets no container that begins from nothing.
		pod := n.Pod(t)
		_ = createUntil(t, pod, "counter", diff, diffMounted(n), func() {
			for _, c := range containersNamed(t, n, "counter") {
				_, err := n.Runtime().StartContainer(n.Context(), &runtime.StartContainerRequest{ContainerId: c.GetId()})
				requireRefused(t, err, codes.FailedPrecondition, "remove it and create it again")
			}
		})
		for _, c := range containersNamed(t, n, "counter") {
			if c.GetState() == runtime.ContainerState_CONTAINER_RUNNING {
				t.Errorf("container %v", c)
			}
		}
		pod.Remove()
		n.RequireNoLeak(t, before)
	})
	for name, tc := range map[string]struct {
		image string
		come  func() bool
	}{
		"unpacking":        {unpack, unpacking(n)},
		"root file system": {diff, diffMounted(n)},
	} {
		t.Run("caller, "+name, func(t *testing.T) {
			pod := n.Pod(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			made := n.Inventory(t)
			err := createUntilIn(ctx, t, pod, "counter", tc.image, tc.come, cancel)
			if err == nil {
				t.Error("the create succeeded all the same")
			}
			n.RequireNoLeak(t, made)
			twin := pod.Run("counter", archive)
			requireContinues(t, twin, counted)
			pod.Remove()
			n.RequireNoLeak(t, before)
		})
	}
}
