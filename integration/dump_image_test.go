package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// A checkpoint becomes an image in one request, is restored from it at once, and on another node
// after a push and a pull; what was restored is checkpointed into an image again.
func TestCheckpointToImage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ snapshotter, compression string }{{"overlayfs", "none"}, {"overlayfs", "zstd"},
		{"native", "none"}} {
		t.Run(tc.snapshotter+" "+tc.compression, func(t *testing.T) {
			registry := harness.NewRegistry(t)
			n := harness.New(t, harness.WithRegistry(registry), harness.WithSnapshotter(tc.snapshotter),
				harness.WithRestoreConfig(`allow_checkpoint_images = true`),
				harness.WithRestoreConfig(`checkpoint_compression = "`+tc.compression+`"`))
			pod := n.Pod(t)
			c := pod.Run("changing", n.Image(harness.Busybox), harness.Shell(changing))
			counted := c.WaitCount(3)
			before := n.Inventory(t)
			name := n.Image("counter:" + unique("v"))
			n.Crictl("checkpoint", "--export=oci-image:"+name, c.ID)
			c.WaitCount(harness.Count(c.Log()) + 3)
			c.Remove()

			// The base image's environment, and nothing that the pod or containerd has added.
			if config := n.Crictl("inspecti", name); !strings.Contains(config, `"PATH=/usr/local/sbin:`) ||
				strings.Contains(config, "HOSTNAME") {
				t.Errorf("config: %s", config)
			}

			restored := pod.Run("restored", name)
			counted = requireContinues(t, restored, counted)
			if got := restored.Exec("cat", "/home/own", "/dir/deep/file"); got != "own\ndeep\n" {
				t.Errorf("root file system: %q", got)
			}
			again := n.Image("counter:" + unique("v"))
			restored.Checkpoint("oci-image:" + again)
			restored.Remove()
			third := pod.Run("third", again)
			requireContinuesAgain(t, third, counted, 1)
			third.Remove()

			n.Ctr("images", "push", "--plain-http", name)
			other := harness.New(t, harness.WithRegistry(registry))
			other.Pull(name)
			requireContinues(t, other.Pod(t).Run("elsewhere", name), 3)

			n.RemoveImage(name)
			n.RemoveImage(again)
			forgetLog(t, c)
			forgetLog(t, restored)
			forgetLog(t, third)
			after := n.Inventory(t)
			for _, kind := range []harness.Kind{harness.KindLease, harness.KindSnapshot, harness.KindContent, harness.KindMount,
				harness.KindIngest} {
				for _, key := range after.Keys(kind) {
					if !strings.Contains(strings.Join(before.Keys(kind), "\n"), key) {
						t.Errorf("left: %s %s", kind, key)
					}
				}
			}
		})
	}
}

// What cannot become an image is refused before the container is frozen, and leaves nothing.
func TestCheckpointToImageRefused(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(`allow_checkpoint_images = true`))
	c := n.Pod(t).Run("heap", workloadImage(t, n), workload("heap", "256"))
	c.WaitLine("ok 2 ")
	before := n.Inventory(t)
	requireRefused(t, c.TryCheckpoint("oci-image:"+n.Image(harness.Busybox)), codes.AlreadyExists,
		n.Image(harness.Busybox), "exists")
	requireRefused(t, c.TryCheckpoint("oci-image:"), codes.InvalidArgument, "image name")
	requireRefused(t, c.TryCheckpoint("oci-image:Upper Case"), codes.InvalidArgument, "Upper Case")
	requireRefused(t, c.TryCheckpoint("oci-image:a@sha256:"+strings.Repeat("0", 64)), codes.InvalidArgument, "digest")
	n.RequireNoLeak(t, before)

	// One that loses its name to another meanwhile.
	const name = "checkpoint.example/race:1"
	done := make(chan error, 1)
	go func() { done <- c.TryCheckpoint("oci-image:" + name) }()
	waitFile(t, filepath.Join(n.State(), restorePlugin, "checkpoint-*", "image", "checkpoint", "pages-*.img"), 1)
	n.Ctr("images", "tag", n.Image(harness.Busybox), name)
	requireRefused(t, <-done, codes.AlreadyExists, name)
	n.RemoveImage(name)
	n.RequireNoLeak(t, before)

	// And one that is not done in time.
	_, err := n.Runtime().CheckpointContainer(n.Context(),
		&runtime.CheckpointContainerRequest{ContainerId: c.ID, Location: "oci-image:" + name, Timeout: 1})
	if err != nil {
		requireRefused(t, err, codes.DeadlineExceeded, "1 seconds")
	} else {
		t.Log("it was done within a second")
		n.RemoveImage(name)
	}
	n.RequireNoLeak(t, before)
	lines := len(c.Log())
	c.WaitLog(func(now []string) bool { return len(now) > lines+2 })
}

// The command asks the container's containerd, and says which image it has made.
func TestCheckpointImageOfContainer(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(`allow_checkpoint_images = true`))
	pod := n.Pod(t)
	c := pod.Run("counter", n.Image(harness.Busybox), harness.Counting())
	counted := c.WaitCount(3)
	const name = "checkpoint.example/command:1"
	command := func(args ...string) (string, error) {
		out, err := exec.CommandContext(n.Context(), filepath.Join(n.Tools().Bin, "checkpoint-image"),
			append([]string{"--containerd", n.Socket(), "--name", name}, args...)...).CombinedOutput()
		return string(out), err
	}
	out, err := command("--container", c.ID, "--timeout", "60s")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	img, err := n.Client().ImageService().Get(n.Context(), name)
	if err != nil || out != name+" "+img.Target.Digest.String()+"\n" {
		t.Fatalf("%q, want the image's name and digest %s, %v", out, img.Target.Digest, err)
	}
	requireContinues(t, pod.Run("restored", name), counted)
	for what, args := range map[string][]string{
		"exists":                 {"--container", c.ID},
		"not both":               {"--container", c.ID, "archive.tar"},
		"--snapshotter is for":   {"--container", c.ID, "--snapshotter", "native"},
		"an error occurred when": {"--container", "none"},
	} {
		if out, err := command(args...); err == nil || !strings.Contains(out, what) {
			t.Errorf("%q: %v: %s", args, err, out)
		}
	}
}
