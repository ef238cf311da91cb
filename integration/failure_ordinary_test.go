package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// stockContainerd is the unchanged containerd of the same version: that of make
// build-stock, or one that is built now.
func stockContainerd(t testing.TB) string {
	t.Helper()
	binary := filepath.Join(harness.Require(t).Bin, "containerd-stock")
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	binary = filepath.Join(t.TempDir(), "containerd-stock")
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "urfave_cli_no_docs", "-o", binary,
		"github.com/containerd/containerd/v2/cmd/containerd")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", build, err, out)
	}
	return binary
}

// conversation records what a node answers, without what differs from node to node.
type conversation struct {
	t       testing.TB
	n       *harness.Node
	names   []string
	answers map[string]string
}

var (
	hex64     = regexp.MustCompile(`(sha256:)?[0-9a-f]{64}`)
	moments   = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z|\b1[789]\d{17}\b`)
	pids      = regexp.MustCompile(`/proc/\d+/|\\"pid\\":\s*\d+|\bpid \d+`)
	addresses = regexp.MustCompile(`10\.231\.\d+\.\d+|crt-[0-9]+|veth[0-9a-f]+|([0-9a-f]{2}:){5}[0-9a-f]{2}|cni-[0-9a-f-]{36}|127\.0\.0\.1:\d+ ?->`)
	uuids     = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	usage     = regexp.MustCompile(`"(value|usageNanoCores)":\s*"\d+"`)
)

func (c *conversation) normal(text string) string {
	text = strings.ReplaceAll(text, filepath.Dir(c.n.Dir()), "<node>")
	text = hex64.ReplaceAllStringFunc(text, func(s string) string {
		if strings.HasPrefix(s, "sha256:") {
			return s // of content, which is the same
		}
		return "<id>"
	})
	// containerd measures a writable layer within ten seconds.
	text = strings.ReplaceAll(text, `"timestamp":"0"`, `"timestamp":"<>"`)
	for _, r := range []*regexp.Regexp{moments, pids, addresses, uuids, usage} {
		text = r.ReplaceAllString(text, "<>")
	}
	return text
}

// say makes a call and records its answer, or its error with code and text.
func say[Q, A proto.Message](c *conversation, name string, call func(context.Context, Q) (A, error), request Q) A {
	c.t.Helper()
	answer, err := call(c.n.Context(), request)
	var text string
	if err != nil {
		text = fmt.Sprintf("%s: %s", status.Code(err), status.Convert(err).Message())
	} else {
		sortLists(answer)
		data, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(answer)
		if err != nil {
			c.t.Fatal(err)
		}
		// protojson varies its spaces on purpose.
		text = strings.Join(strings.Fields(string(data)), "")
	}
	c.note(name, text)
	return answer
}

// sortLists sorts what containerd lists as its maps have it.
func sortLists(answer any) {
	switch a := answer.(type) {
	case *runtime.ListImagesResponse:
		slices.SortFunc(a.Images, func(a, b *runtime.Image) int { return strings.Compare(a.GetId(), b.GetId()) })
	case *runtime.ListContainersResponse:
		slices.SortFunc(a.Containers, func(a, b *runtime.Container) int {
			return strings.Compare(a.GetMetadata().GetName(), b.GetMetadata().GetName())
		})
	}
}

func (c *conversation) note(name, text string) {
	if _, ok := c.answers[name]; ok {
		c.t.Fatalf("step %q is there twice", name)
	}
	c.names = append(c.names, name)
	c.answers[name] = c.normal(text)
}

// plain drops the options of a generated client.
func plain[Q, A any](call func(context.Context, Q, ...grpc.CallOption) (A, error)) func(context.Context, Q) (A, error) {
	return func(ctx context.Context, q Q) (A, error) { return call(ctx, q) }
}

// TestFailureOrdinary has the same conversation with our build and with the stock
// containerd. For whatever is not a checkpoint both must say the same.
func TestFailureOrdinary(t *testing.T) {
	t.Parallel()
	registry := harness.NewRegistry(t)
	var said [2]*conversation
	for i, opts := range [][]harness.Option{{harness.WithBinary(stockContainerd(t))}, {}} {
		n := harness.New(t, append(opts, harness.WithRegistry(registry), harness.WithConfig(passAnnotations))...)
		said[i] = &conversation{t: t, n: n, answers: map[string]string{}}
		converse(said[i])
	}
	stock, ours := said[0], said[1]
	if len(stock.names) < 50 || fmt.Sprint(stock.names) != fmt.Sprint(ours.names) {
		t.Fatalf("steps: %q with stock containerd, %q with ours", stock.names, ours.names)
	}
	for _, name := range stock.names {
		if a, b := stock.answers[name], ours.answers[name]; a != b {
			i := 0
			for i < min(len(a), len(b)) && a[i] == b[i] {
				i++
			}
			part := func(s string) string { return s[max(0, i-100):min(len(s), i+300)] }
			t.Errorf("%s: stock containerd says\n...%s\nours\n...%s", name, part(a), part(b))
		}
	}
}

func converse(c *conversation) {
	dir := filepath.Join(c.n.Dir(), "volume")
	writeHostFile(c.t, filepath.Join(dir, "file"), "of the volume")
	r, images := c.n.Runtime(), c.n.Images()
	busybox := c.n.Image(harness.Busybox)

	say(c, "image status", plain(images.ImageStatus),
		&runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: busybox}, Verbose: true})
	say(c, "image status of none", plain(images.ImageStatus),
		&runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: "none:1"}})
	say(c, "images", plain(images.ListImages),
		&runtime.ListImagesRequest{Filter: &runtime.ImageFilter{Image: &runtime.ImageSpec{Image: busybox}}})
	say(c, "pull again", plain(images.PullImage), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: busybox}})
	say(c, "pull absent tag", plain(images.PullImage),
		&runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: c.n.Image("busybox:absent")}})
	say(c, "pull nothing", plain(images.PullImage), &runtime.PullImageRequest{Image: &runtime.ImageSpec{}})
	say(c, "pull nonsense", plain(images.PullImage),
		&runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "No:Such::Name"}})
	say(c, "remove absent image", plain(images.RemoveImage),
		&runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: "none:1"}})

	pod := c.n.Pod(c.t, harness.PodName("pod"), harness.PodUID("7c2a1d5e-0000-4000-8000-000000000001"),
		harness.PodLabel("app", "x"),
		harness.PodAnnotation("example.com/a", "b"), harness.PodAnnotation("org.criu.config", "/no/such/file"))
	say(c, "pod status", plain(r.PodSandboxStatus), &runtime.PodSandboxStatusRequest{PodSandboxId: pod.ID, Verbose: true})
	say(c, "pods", plain(r.ListPodSandbox), &runtime.ListPodSandboxRequest{})

	full := func(name string, opts ...harness.ContainerOpt) *runtime.ContainerConfig {
		config := &runtime.ContainerConfig{
			Metadata: &runtime.ContainerMetadata{Name: name},
			Image:    &runtime.ImageSpec{Image: busybox, UserSpecifiedImage: busybox},
			Labels:   map[string]string{}, Annotations: map[string]string{}, LogPath: name + ".log",
			Linux: &runtime.LinuxContainerConfig{
				Resources: &runtime.LinuxContainerResources{},
				SecurityContext: &runtime.LinuxContainerSecurityContext{
					NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
				},
			},
		}
		for _, opt := range append([]harness.ContainerOpt{harness.Shell("echo begin; while :; do sleep 1; done")}, opts...) {
			opt(config)
		}
		return config
	}
	create := func(step, pod string, sandbox *runtime.PodSandboxConfig, config *runtime.ContainerConfig) string {
		return say(c, "create "+step, plain(r.CreateContainer),
			&runtime.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: sandbox, Config: config}).GetContainerId()
	}

	for _, tc := range []struct {
		name string
		opts []harness.ContainerOpt
	}{
		{"plain", nil},
		{"by ID", []harness.ContainerOpt{func(config *runtime.ContainerConfig) {
			config.Image.Image = c.n.ImageStatus(busybox).GetId()
		}}},
		{"rich", []harness.ContainerOpt{
			harness.Env("A", "b"), harness.Label("l", "m"), harness.Annotation("example.com/c", "d"),
			harness.Annotation("org.criu.config", "/no/such/file"),
			harness.Annotation("org.criu.restore/x", "y"), harness.Mount(dir, "/mnt", true), harness.WorkingDir("/data"),
			harness.User(1000),
			harness.ReadonlyRootfs(), harness.MemoryLimit(64 << 20), harness.Attempt(2), harness.Stdin(),
		}},
		{"terminal", []harness.ContainerOpt{harness.Tty(), harness.Stdin()}},
	} {
		id := create(tc.name, pod.ID, pod.Config, full(strings.ReplaceAll(tc.name, " ", "-"), tc.opts...))
		lifecycle(c, tc.name, id)
	}

	create("in no pod", strings.Repeat("ab", 32), pod.Config, full("x"))
	create("in nothing", "", pod.Config, full("x"))
	create("without config", pod.ID, pod.Config, nil)
	create("without name", pod.ID, pod.Config, full(""))
	for _, image := range []string{"none:1", "", "No:Such::Name", "dir/file.tar", strings.Repeat("ab", 32),
		"sha256:" + strings.Repeat("ab", 32)} {
		create(fmt.Sprintf("of image %q", image), pod.ID, pod.Config,
			full("x", func(config *runtime.ContainerConfig) { config.Image = &runtime.ImageSpec{Image: image} }))
	}
	create("without image", pod.ID, pod.Config, full("x", func(config *runtime.ContainerConfig) { config.Image = nil }))
	create("with unknown user", pod.ID, pod.Config, full("x", noSuchUser))
	create("with bad mount", pod.ID, pod.Config, full("x",
		harness.Mount(filepath.Join(dir, "file", "below"), "/mnt", false)))
	create("privileged in a pod that is not", pod.ID, pod.Config, full("x", harness.Privileged()))

	first := create("first of two", pod.ID, pod.Config, full("twice"))
	create("second of two", pod.ID, pod.Config, full("twice"))
	say(c, "checkpoint of created", plain(r.CheckpointContainer),
		&runtime.CheckpointContainerRequest{ContainerId: first, Location: filepath.Join(dir, "created.tar")})
	say(c, "remove created", plain(r.RemoveContainer), &runtime.RemoveContainerRequest{ContainerId: first})
	bad := create("of what cannot start", pod.ID, pod.Config, full("bad", harness.Command("/no/such/program")))
	say(c, "start of what cannot start", plain(r.StartContainer), &runtime.StartContainerRequest{ContainerId: bad})
	say(c, "status of what cannot start", plain(r.ContainerStatus),
		&runtime.ContainerStatusRequest{ContainerId: bad, Verbose: true})
	say(c, "remove of what cannot start", plain(r.RemoveContainer), &runtime.RemoveContainerRequest{ContainerId: bad})

	const none = "abcabcabcabc"
	say(c, "start none", plain(r.StartContainer), &runtime.StartContainerRequest{ContainerId: none})
	say(c, "stop none", plain(r.StopContainer), &runtime.StopContainerRequest{ContainerId: none})
	say(c, "remove none", plain(r.RemoveContainer), &runtime.RemoveContainerRequest{ContainerId: none})
	say(c, "status of none", plain(r.ContainerStatus), &runtime.ContainerStatusRequest{ContainerId: none})
	say(c, "stats of none", plain(r.ContainerStats), &runtime.ContainerStatsRequest{ContainerId: none})
	say(c, "exec in none", plain(r.ExecSync), &runtime.ExecSyncRequest{ContainerId: none, Cmd: []string{"true"}})
	say(c, "checkpoint of none", plain(r.CheckpointContainer),
		&runtime.CheckpointContainerRequest{ContainerId: none, Location: filepath.Join(dir, "none.tar")})
	say(c, "checkpoint of pod", plain(r.CheckpointPod), &runtime.CheckpointPodRequest{})
	say(c, "restore of pod", plain(r.RestorePod), &runtime.RestorePodRequest{})
	say(c, "remove no pod", plain(r.RemovePodSandbox), &runtime.RemovePodSandboxRequest{PodSandboxId: none})

	left := create("before the pod stops", pod.ID, pod.Config, full("left"))
	say(c, "stop pod", plain(r.StopPodSandbox), &runtime.StopPodSandboxRequest{PodSandboxId: pod.ID})
	say(c, "start in stopped pod", plain(r.StartContainer), &runtime.StartContainerRequest{ContainerId: left})
	create("in stopped pod", pod.ID, pod.Config, full("late"))
	say(c, "containers", plain(r.ListContainers), &runtime.ListContainersRequest{})
	say(c, "remove pod", plain(r.RemovePodSandbox), &runtime.RemovePodSandboxRequest{PodSandboxId: pod.ID})
	say(c, "remove pod again", plain(r.RemovePodSandbox), &runtime.RemovePodSandboxRequest{PodSandboxId: pod.ID})
	say(c, "containers without pod", plain(r.ListContainers), &runtime.ListContainersRequest{})
}

func lifecycle(c *conversation, name, id string) {
	r := c.n.Runtime()
	inspect := func(when string) {
		say(c, name+": status "+when, plain(r.ContainerStatus),
			&runtime.ContainerStatusRequest{ContainerId: id, Verbose: true})
	}
	inspect("created")
	say(c, name+": exec in created", plain(r.ExecSync), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
	say(c, name+": start", plain(r.StartContainer), &runtime.StartContainerRequest{ContainerId: id})
	inspect("running")
	say(c, name+": start again", plain(r.StartContainer), &runtime.StartContainerRequest{ContainerId: id})
	say(c, name+": exec", plain(r.ExecSync), &runtime.ExecSyncRequest{ContainerId: id,
		Cmd: []string{"sh", "-c", "id; pwd; env | sort; ls /mnt; echo err >&2; exit 3"}})
	say(c, name+": stats", plain(r.ContainerStats), &runtime.ContainerStatsRequest{ContainerId: id})
	say(c, name+": update", plain(r.UpdateContainerResources), &runtime.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &runtime.LinuxContainerResources{MemoryLimitInBytes: 128 << 20},
	})
	say(c, name+": log", plain(r.ReopenContainerLog), &runtime.ReopenContainerLogRequest{ContainerId: id})
	say(c, name+": stop", plain(r.StopContainer), &runtime.StopContainerRequest{ContainerId: id})
	inspect("stopped")
	say(c, name+": stop again", plain(r.StopContainer), &runtime.StopContainerRequest{ContainerId: id})
	say(c, name+": exec in stopped", plain(r.ExecSync), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
	say(c, name+": checkpoint of stopped", plain(r.CheckpointContainer),
		&runtime.CheckpointContainerRequest{ContainerId: id, Location: "/no/such/dir/x.tar"})
	say(c, name+": remove", plain(r.RemoveContainer), &runtime.RemoveContainerRequest{ContainerId: id})
	say(c, name+": remove again", plain(r.RemoveContainer), &runtime.RemoveContainerRequest{ContainerId: id})
	say(c, name+": status removed", plain(r.ContainerStatus), &runtime.ContainerStatusRequest{ContainerId: id})
}
