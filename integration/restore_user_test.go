package integration

import (
	"os"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestRestoreOtherUser checkpoints and restores programs as pods run them that the Pod Security Standard "restricted"
// admits: as a user who is not root, without capabilities, under the runtime's seccomp profile, with a root file system
// that cannot be written. Each of them twice, eagerly and lazily.
func TestRestoreOtherUser(t *testing.T) {
	t.Parallel()
	groups := harness.Security(func(s *runtime.LinuxContainerSecurityContext) {
		s.SupplementalGroups = []int64{2000,
			3000}
	})
	for mode, config := range map[string]string{"eagerly": `lazy_pages = "off"`, "lazily": lazyOn} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			n := harness.New(t, harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(config))
			img := workloadImage(t, n)
			for name, run := range map[string][]harness.ContainerOpt{
				"tree": {workload("tree"), harness.Mount(emptyDir(t), "/tmp", false)}, "threads": {workload("threads")},
				"heap":     {workload("heap", "64")},
				"listener": {workload("listen", "0.0.0.0:8080")}, "pages of two processes": {workload("pages", "16", "2", "fork")},
				"groups": {workload("threads"), groups},
			} {
				t.Run(name, func(t *testing.T) {
					n := n.In(t)
					before := n.Inventory(t)
					opts := append(restricted(appUser), run...)
					pod := n.Pod(t)
					c := pod.Run("first", img, opts...)
					counted := waitOK(t, c, 3)
					ordinary := processStatus(t, c)[0]
					// The second generation is a checkpoint of what was restored.
					for _, generation := range []string{"second", "third"} {
						archive := checkpointOf(t, c)
						pod.Remove()
						pod = n.Pod(t)
						c = pod.Run(generation, archive, opts...)
						counted = requireOKContinues(t, c, counted)
						requireSameRights(t, c, ordinary)
					}
					pod.Remove()
					n.RequireNoLeak(t, before)
				})
			}
		})
	}
}

// emptyDir is a volume as the kubelet makes one of kind emptyDir (kubernetes: pkg/volume/emptydir), which everybody may
// write to.
func emptyDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// requireSameRights fails the test if a thread of a container may do more than another process could, or less.
func requireSameRights(t *testing.T, c *harness.Container, want map[string]string) {
	t.Helper()
	for _, got := range processStatus(t, c) {
		for _, field := range statusFields {
			if field != "Name" && field != "Pid" && got[field] != want[field] {
				t.Errorf("%s of %s in %s: %q, was %q", field, got["Name"], c.ID, got[field], want[field])
			}
		}
	}
}
