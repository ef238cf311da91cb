package integration

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestPolicyHandler restores in pods of several runtime handlers: "other" is one that is
// not runc to containerd, with a copy of runc's shim in its place, so that its pods
// and ordinary containers work; "second" is runc by another name.
func TestPolicyHandler(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	tools := harness.Require(t)
	copyFile(t, filepath.Join(tools.Bin, "containerd-shim-runc-v2"), filepath.Join(bin, "containerd-shim-other-v1"))
	n := harness.New(t, harness.WithEnv("PATH="+bin+":"+tools.Path()), harness.WithRestoreConfig(allowArchives), harness.WithConfig(`
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.other]
runtime_type = "io.containerd.other.v1"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.second]
runtime_type = "io.containerd.runc.v2"
`))
	archive, counted := countingCheckpoint(t, n)
	image := imageOf(t, n, archive)

	pod := n.Pod(t, harness.PodHandler("other"))
	ordinary(t, pod, n.Image(harness.Busybox))
	for _, checkpoint := range []string{image, archive} {
		refused(t, pod, checkpoint, codes.FailedPrecondition, `runtime handler "other"`, "io.containerd.other.v1",
			"io.containerd.runc.v2", "another runtime class")
	}
	restored(t, n.Pod(t, harness.PodHandler("second")), image, counted)
	restored(t, n.Pod(t), image, counted)
}

// TestPolicyUserNamespace refuses user namespaces, of the checkpoint and of the pod.
func TestPolicyUserNamespace(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	archive, counted := countingCheckpoint(t, n)

	pod := n.Pod(t)
	doctored := editedSpec(t, archive, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	})
	refused(t, pod, doctored, codes.FailedPrecondition, doctored, "user namespace", "hostUsers: true")
	restored(t, pod, archive, counted).Remove()

	// The pod's root, nobody on the host, must reach its root file system.
	if err := os.Chmod(filepath.Dir(n.Dir()), 0o711); err != nil {
		t.Fatal(err)
	}
	mapping := []*runtime.IDMapping{{HostId: 100000, ContainerId: 0, Length: 65536}}
	userns := &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: mapping, Gids: mapping}
	pod, err := n.TryPod(t,
		func(s *harness.PodSpec) { s.Config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns })
	if err != nil {
		t.Fatal(err)
	}
	inUserns := harness.Security(func(s *runtime.LinuxContainerSecurityContext) {
		s.NamespaceOptions.UsernsOptions = userns
	})
	ordinary(t, pod, n.Image(harness.Busybox), inUserns)
	before := n.Inventory(t)
	_, err = pod.TryCreate("restored", archive, inUserns)
	requireRefused(t, err, codes.FailedPrecondition, archive, "user namespace", "hostUsers: true")
	n.RequireNoLeak(t, before)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
}
