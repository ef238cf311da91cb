package integration

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// bareRestore restores with runc what a container that was created, and is never started,
// would be restored from: the same images, root file system, OCI spec and CRIU options.
func bareRestore(b *testing.B, pod *harness.Pod, image string) time.Duration {
	b.Helper()
	n := pod.Node()
	c := pod.Create(unique("bare"), image)
	defer func() {
		c.Remove()
		forgetLog(b, c)
	}()
	ctx := n.Context()
	container, err := n.Client().ContainerService().Get(ctx, c.ID)
	if err != nil {
		b.Fatal(err)
	}
	mounts, err := n.Client().SnapshotService(container.Snapshotter).Mounts(ctx, container.SnapshotKey)
	if err != nil {
		b.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(container.Spec.GetValue(), &spec); err != nil {
		b.Fatal(err)
	}
	bundle := filepath.Join(n.Dir(), unique("bundle"))
	root := filepath.Join(bundle, "rootfs")
	if err := os.MkdirAll(root, 0o700); err != nil {
		b.Fatal(err)
	}
	if err := mount.All(mounts, root); err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := mount.UnmountAll(root, 0); err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(bundle); err != nil {
			b.Error(err)
		}
	}()
	config, err := json.Marshal(spec)
	if err != nil {
		b.Fatal(err)
	}
	writeHostFile(b, filepath.Join(bundle, "config.json"), string(config))
	views, err := filepath.Glob(filepath.Join(n.State(), restorePlugin, "*", "view", "checkpoint"))
	if err != nil || len(views) != 1 {
		b.Fatalf("views: %q, error %v, want one", views, err)
	}

	runc := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, filepath.Join(n.Tools().Bin, "runc"),
			append([]string{"--root", filepath.Join(bundle, "runc")}, args...)...)
		cmd.Env = append(os.Environ(), "PATH="+n.Tools().Path())
		return cmd
	}
	restore := runc("restore", "--detach", "--bundle", bundle, "--image-path", views[0], "--work-path",
		filepath.Join(bundle, "work"), c.ID)
	done := discardOutput(b, restore)
	began := time.Now()
	err = restore.Run()
	took := time.Since(began)
	done()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(bundle, "work", "restore.log"))
		b.Fatalf("runc restore: %v\n%s", err, log[max(0, len(log)-2000):])
	}
	if out, err := runc("delete", "--force", c.ID).CombinedOutput(); err != nil {
		b.Fatalf("runc delete: %v: %s", err, out)
	}
	return took
}

// discardOutput gives the command pipes, as the process had at its checkpoint, and
// reads them until the process has ended. The returned function closes our ends.
func discardOutput(b *testing.B, cmd *exec.Cmd) (closeOurs func()) {
	b.Helper()
	var ours []*os.File
	for _, out := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			b.Fatal(err)
		}
		*out, ours = w, append(ours, w)
		go func() {
			_, _ = io.Copy(io.Discard, r)
			_ = r.Close()
		}()
	}
	return func() {
		for _, w := range ours {
			_ = w.Close()
		}
	}
}
