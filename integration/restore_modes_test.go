package integration

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// hostIPC puts a pod into the host's IPC namespace.
func hostIPC(s *harness.PodSpec) {
	s.Config.Linux.SecurityContext.NamespaceOptions.Ipc = runtime.NamespaceMode_NODE
}

// mode is a way to run a container that has to be the same before and after.
type mode struct {
	name string
	pod  []harness.PodOpt
	opts []harness.ContainerOpt
}

// TestRestoreNamespaceModes restores in every mode of namespaces into a pod of the same
// mode (point 7): the process is in the pod's, or the host's.
func TestRestoreNamespaceModes(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	for _, m := range []mode{
		{name: "private PID"},
		{name: "shared PID", pod: []harness.PodOpt{harness.PodSharedPID()}},
		{name: "host PID", pod: []harness.PodOpt{harness.PodHostPID()}},
		{name: "host IPC", pod: []harness.PodOpt{hostIPC}},
		{name: "host network", pod: []harness.PodOpt{harness.PodHostNetwork()}},
		{name: "all of the host's", pod: []harness.PodOpt{harness.PodHostNetwork(), harness.PodHostPID(), hostIPC}},
	} {
		t.Run(m.name, func(t *testing.T) {
			n := n.In(t)
			pod := n.Pod(t, m.pod...)
			// In a PID namespace that is shared, a restored process needs the PID that it had. So
			// it has one that nothing in a young pod has, and is restored before the other container.
			pod.Run("first", n.Image(harness.Busybox), harness.Shell("for i in $(seq 200); do /bin/true; done")).WaitExited()
			c := pod.Run("counter", n.Image(harness.Busybox), harness.Counting())
			counted := c.WaitCount(5)
			archive := checkpointOf(t, c)
			pod.Remove()
			name := imageOf(t, n, archive)
			before := n.Inventory(t)

			pod = n.Pod(t, m.pod...)
			restored := pod.Run("restored", name)
			requireContinues(t, restored, counted)
			ordinary := pod.Run("ordinary", n.Image(harness.Busybox), harness.Counting())
			for _, kind := range []string{"net", "ipc", "uts", "pid"} {
				same := namespace(t, restored, kind) == namespace(t, ordinary, kind)
				if private := kind == "pid" &&
					pod.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid() ==
						runtime.NamespaceMode_CONTAINER; same == private {
					t.Errorf("%s: restored %s, ordinary %s", kind, namespace(t, restored, kind), namespace(t, ordinary, kind))
				}
				if got, want := sameNamespace(t, restored, kind), sameNamespace(t, ordinary, kind); got != want {
					t.Errorf("%s: the host's? got %t, want %t", kind, got, want)
				}
			}
			pod.Remove()
			n.RequireNoLeak(t, before)
		})
	}
}

// TestRestoreOntoHostNetwork restores a process that was in a pod's network in a pod on the host's.
// containerd gives every container the network namespace by path, so it lands in that of the
// new pod. The other way round CRIU leaves the process on the host's network: it is refused, see below.
func TestRestoreOntoHostNetwork(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	old := n.Pod(t, podHost("checkpointed-host", "10.9.9.1"))
	c := old.Run("counter", n.Image(harness.Busybox), harness.Counting())
	counted := c.WaitCount(5)
	archive := checkpointOf(t, c)
	old.Remove()
	restored := n.Pod(t, harness.PodHostNetwork()).Run("restored", archive)
	requireContinues(t, restored, counted)
	for _, kind := range []string{"net", "uts"} {
		if !sameNamespace(t, restored, kind) {
			t.Errorf("%s: the container is not in the host's namespace", kind)
		}
	}
	// The host keeps its name.
	if got, err := os.Hostname(); got != name || err != nil {
		t.Errorf("the restore has renamed the host from %s to %s (error %v)", name, got, err)
		if err := unix.Sethostname([]byte(name)); err != nil {
			t.Error(err)
		}
	}
}

// TestRestoreModeMismatch restores in another mode than that of the checkpoint, which has
// to be refused with the thing named, and nothing left (points 7 and 9).
func TestRestoreModeMismatch(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	volume := t.TempDir()
	archives := map[string]string{}
	for _, m := range []mode{
		{name: "plain"},
		{name: "tty", opts: []harness.ContainerOpt{harness.Tty()}},
		{name: "stdin", opts: []harness.ContainerOpt{harness.Stdin()}},
		{name: "shared PID", pod: []harness.PodOpt{harness.PodSharedPID()}},
		{name: "host PID", pod: []harness.PodOpt{harness.PodHostPID()}},
		{name: "host network", pod: []harness.PodOpt{harness.PodHostNetwork()}},
		{name: "volume", opts: []harness.ContainerOpt{harness.Mount(volume, "/mnt/volume", false)}},
	} {
		pod := n.Pod(t, m.pod...)
		c := pod.Run("counter", n.Image(harness.Busybox), append([]harness.ContainerOpt{harness.Counting()}, m.opts...)...)
		c.WaitLine("count 2")
		archives[m.name] = checkpointOf(t, c)
		pod.Remove()
	}
	network := func(change func(*specs.LinuxNamespace) bool) string {
		return editedSpec(t, archives["plain"], func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces,
				func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace })
			if ns := (specs.LinuxNamespace{Type: specs.NetworkNamespace}); change(&ns) {
				s.Linux.Namespaces = append(s.Linux.Namespaces, ns)
			}
		})
	}
	// What no containerd writes, but a stranger may.
	archives["own network namespace"] = network(func(*specs.LinuxNamespace) bool { return true })
	archives["no network namespace"] = network(func(*specs.LinuxNamespace) bool { return false })
	archives["user namespace"] = editedSpec(t, archives["plain"], func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	})

	plain, shared, hostPID := n.Pod(t), n.Pod(t, harness.PodSharedPID()), n.Pod(t, harness.PodHostPID())
	for _, m := range []struct {
		name, checkpoint string
		pod              *harness.Pod
		opts             []harness.ContainerOpt
		words            []string
	}{
		{"terminal into none", "tty", plain, nil, []string{"tty: true"}},
		{"none into terminal", "plain", plain, []harness.ContainerOpt{harness.Tty()}, []string{"tty: false"}},
		{"stdin into none", "stdin", plain, nil, []string{"stdin: true"}},
		{"none into stdin", "plain", plain, []harness.ContainerOpt{harness.Stdin()}, []string{"stdin: false"}},
		{"shared PID into private", "shared PID", plain, nil, []string{"pid namespace", "shareProcessNamespace"}},
		{"private PID into shared", "plain", shared, nil, []string{"pid namespace", "shareProcessNamespace"}},
		{"private PID into host PID", "plain", hostPID, nil, []string{"pid namespace", "hostPID"}},
		{"host PID into private", "host PID", plain, nil, []string{"pid namespace", "hostPID"}},
		{"shared PID into host PID", "shared PID", hostPID, nil, []string{"pid namespace", "hostPID"}},
		{"host network into own", "host network", plain, nil, []string{"network namespace", "hostNetwork"}},
		{"missing volume", "volume", plain, nil, []string{`"/mnt/volume"`, "pod mounts none"}},
		{"volume elsewhere", "volume", plain, []harness.ContainerOpt{harness.Mount(volume, "/mnt/other", false)},
			[]string{`"/mnt/volume"`, "pod mounts none"}},
		{"own network namespace", "own network namespace", plain, nil, []string{"network namespace", "hostNetwork"}},
		{"no network namespace", "no network namespace", plain, nil, []string{"network namespace", "hostNetwork"}},
		{"user namespace", "user namespace", plain, nil, []string{"user namespace", "hostUsers"}},
		{"two at once", "volume", plain, []harness.ContainerOpt{harness.Tty()}, []string{"tty: false", `"/mnt/volume"`}},
	} {
		t.Run(m.name, func(t *testing.T) {
			n := n.In(t)
			before := n.Inventory(t)
			_, err := m.pod.TryCreate("refused", archives[m.checkpoint], m.opts...)
			requireRefused(t, err, codes.FailedPrecondition, m.words...)
			n.RequireNoLeak(t, before)
			if _, err := os.Stat(filepath.Join(m.pod.Config.GetLogDirectory(), "refused_0.log")); !errors.Is(err,
				os.ErrNotExist) {
				t.Errorf("a log was left: error %v", err)
			}
		})
	}
	// The name is free again.
	c := plain.Run("refused", archives["plain"])
	c.WaitCount(5)
}
