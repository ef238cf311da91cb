package integration

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestPolicyFresh has pods that want their container started whatever becomes of the checkpoint.
func TestPolicyFresh(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(`allow_archives = true
pod_annotations = ["on-failure"]
allowed_namespaces = ["default"]`))
	fresh := harness.PodAnnotation("org.criu.restore/on-failure", "start-fresh")
	archive, counted := countingCheckpoint(t, n)
	doctored := editedSpec(t, archive, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	})
	image := imageOf(t, n, doctored)

	// beginsAnew runs the container, and checks that CRI says so, and why.
	beginsAnew := func(t *testing.T, pod *harness.Pod, checkpoint, why string) {
		t.Helper()
		c := pod.Create(unique("fresh"), checkpoint, harness.Counting())
		c.Start()
		if lines := c.WaitLog(func(lines []string) bool { return harness.Count(lines) >= 3 }); lines[0] != "count 1" {
			t.Errorf("the log begins with %q", lines[0])
		}
		a := c.Status().GetAnnotations()
		if !strings.Contains(a["org.criu.restore/started-fresh"], why) ||
			a["org.criu.restore/checkpoint-image"] != checkpoint || a["org.criu.restore/id"] != "" {
			t.Errorf("annotations %v", a)
		}
		n.Restart() // it is an ordinary container to the next containerd too
		c.WaitCount(harness.Count(c.Log()) + 2)
		c.Remove()
	}
	for _, checkpoint := range []string{doctored, image} {
		refused(t, n.Pod(t), checkpoint, codes.FailedPrecondition, "user namespace")
		beginsAnew(t, n.Pod(t, fresh), checkpoint, "user namespace")
	}
	// What can be restored is.
	restored(t, n.Pod(t, fresh), archive, counted).Remove()
	// The policy is not a failure.
	stranger := n.Pod(t, fresh, harness.PodNamespace("elsewhere"))
	refused(t, stranger, image, codes.PermissionDenied, "allowed_namespaces")

	// Not on a node that does not hear it.
	n.Reconfigure(harness.WithRestoreConfig(`pod_annotations = []`))
	refused(t, n.Pod(t, fresh), image, codes.PermissionDenied, "on-failure", "pod_annotations")
}
