package integration

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// archiveEntries returns the names in a plain tar, without those of CRIU's images.
func archiveEntries(t testing.TB, archive string) []string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return slices.Sorted(slices.Values(names))
		}
		if err != nil {
			t.Fatalf("%s: %v", archive, err)
		}
		if name := path.Clean(h.Name); path.Dir(name) != "checkpoint" {
			names = append(names, name)
		}
	}
}

// diffEntries returns the names in the changes of the root file system.
func diffEntries(t testing.TB, archive string) []string {
	t.Helper()
	z, err := gzip.NewReader(strings.NewReader(string(tarFile(t, archive, "rootfs-diff.tar"))))
	if err != nil {
		t.Fatalf("%s: rootfs-diff.tar: %v", archive, err)
	}
	var names []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return slices.Sorted(slices.Values(names))
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, path.Clean(h.Name))
	}
}

// changing counts, after it has changed the root file system in every way that there is.
const changing = `set -e
echo new > /new; mkdir -p /dir/deep; echo deep > /dir/deep/file; ln /new /hard; ln -s /nowhere /soft
rm /etc/motd-of-test 2>/dev/null || true
rm /bin/vi 2>/dev/null || true
rm -r /var/spool 2>/dev/null || true
rm -r /home; mkdir /home; echo own > /home/own
chmod 700 /root
i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`

// The archive holds what stock containerd's holds, and checkpointctl reads it.
func TestCheckpointArchiveIsAsStock(t *testing.T) {
	t.Parallel()
	registry := harness.NewRegistry(t)
	var entries, diffs [2][]string
	for i, opts := range [][]harness.Option{{harness.WithBinary(stockContainerd(t))}, {}} {
		n := harness.New(t, append(opts, harness.WithRegistry(registry))...)
		pod := n.Pod(t)
		c := pod.Run("changing", n.Image(harness.Busybox), harness.Shell(changing))
		c.WaitCount(3)
		before := n.Inventory(t)
		archive := checkpointOf(t, c)
		n.RequireNoLeak(t, before)
		c.WaitCount(harness.Count(c.Log()) + 3) // it runs on
		entries[i], diffs[i] = archiveEntries(t, archive), diffEntries(t, archive)
		if fi, err := os.Stat(archive); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, error %v", fi.Mode(), err)
		}
		for _, args := range [][]string{{"show"}, {"inspect", "--all"}} {
			out, err := exec.CommandContext(t.Context(), filepath.Join(n.Tools().Bin, "checkpointctl"),
				append(args, archive)...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "changing") {
				t.Errorf("checkpointctl %v: %v\n%s", args, err, out)
			}
		}
		pod.Remove()
	}
	if !slices.Equal(entries[0], entries[1]) {
		t.Errorf("entries of stock's archive: %q\nof ours: %q", entries[0], entries[1])
	}
	// Ours reads the overlay's own directory and does not compare: a directory that was replaced is opaque instead of
	// having a whiteout for each file that is hidden, and one that was copied up (by CRIU, for its mount points) is there
	// though nothing of it has changed.
	diffs[0] = append(slices.DeleteFunc(diffs[0], func(name string) bool { return strings.HasPrefix(name, "home/.wh.") }),
		"home/.wh..wh..opq", "tmp")
	slices.Sort(diffs[0])
	if !slices.Equal(diffs[0], diffs[1]) {
		t.Errorf("changes in stock's archive: %q\nin ours: %q", diffs[0], diffs[1])
	}
}

// Our archives restore, with all changes of the root file system, whatever the snapshotter and compression.
func TestCheckpointRestores(t *testing.T) {
	t.Parallel()
	for _, snapshotter := range []string{"overlayfs", "native"} {
		t.Run(snapshotter, func(t *testing.T) {
			n := harness.New(t, harness.WithSnapshotter(snapshotter), harness.WithRestoreConfig(allowArchives),
				harness.WithRestoreConfig(`pod_annotations = ["checkpoint-compression"]`))
			for _, compression := range []string{"none", "zstd"} {
				pod := n.Pod(t, harness.PodAnnotation("org.criu.restore/checkpoint-compression", compression))
				c := pod.Run("changing", n.Image(harness.Busybox), harness.Shell(changing))
				counted := c.WaitCount(3)
				archive := checkpointOf(t, c)
				c.Remove()
				c = pod.Run("restored", archive)
				requireContinues(t, c, counted)
				// The log in the checkpoint ends where the process was: no number comes twice.
				for i, number := range numbers(c.Log(), "count") {
					if number != i+1 {
						t.Errorf("%s: line %d of the log has number %d", compression, i+1, number)
						break
					}
				}
				got := c.Exec("/bin/sh", "-c",
					`cat /new /hard /dir/deep/file /home/own; readlink /soft; stat -c %h /new; stat -c %a /root; ls /home; test ! -e /var/spool`)
				if want := "new\nnew\ndeep\nown\n/nowhere\n2\n700\nown\n"; got != want {
					t.Errorf("%s: root file system: %q, want %q", compression, got, want)
				}
				c.Remove()
			}
		})
	}
}

// Bad requests get the codes of stock containerd, or clearer ones where stock has done the work first.
func TestCheckpointRefused(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	c := pod.Run("counter", n.Image(harness.Busybox), harness.Counting())
	created := pod.Create("created", n.Image(harness.Busybox), harness.Counting())
	before := n.Inventory(t)
	there := filepath.Join(n.Dir(), "there.tar")
	writeHostFile(t, there, "precious")

	try := func(id, location string) error {
		_, err := n.Runtime().CheckpointContainer(n.Context(),
			&runtime.CheckpointContainerRequest{ContainerId: id, Location: location})
		return err
	}
	good := filepath.Join(n.Dir(), "good.tar")
	requireRefused(t, try("absent", good), codes.NotFound, "absent")
	requireRefused(t, try(created.ID, good), codes.Unknown, "CONTAINER_CREATED", "only CONTAINER_RUNNING")
	requireRefused(t, try(c.ID, there), codes.AlreadyExists, there)
	requireRefused(t, try(c.ID, filepath.Join(n.Dir(), "absent", "x.tar")), codes.NotFound, "absent", "create it")
	requireRefused(t, try(c.ID, "relative.tar"), codes.InvalidArgument, "relative.tar")
	requireRefused(t, try(c.ID, ""), codes.InvalidArgument)
	requireRefused(t, try(c.ID, "oci-image:checkpoint.example/a:1"), codes.PermissionDenied, "allow_checkpoint_images")
	if content, err := os.ReadFile(there); err != nil || string(content) != "precious" {
		t.Errorf("the file that was there: %q, %v", content, err)
	}
	n.RequireNoLeak(t, before)
	requireOnly(t, n.Dir(), "there.tar")
	c.WaitCount(harness.Count(c.Log()) + 3)
}

// A node without CRIU, one whose CRI plugin forbids it, and one that does not restore answer as stock containerd does.
func TestCheckpointLeftToContainerd(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	c := n.Pod(t).Run("counter", n.Image(harness.Busybox), harness.Counting())
	file := filepath.Join(n.Dir(), "stock.tar")
	n.Reconfigure(harness.WithConfig("[plugins.'io.containerd.cri.v1.runtime']\nenable_criu = false"))
	requireRefused(t, c.TryCheckpoint(file), codes.Unknown, "criu support is disabled by configuration")
	n.Reconfigure(harness.WithConfig("[plugins.'io.containerd.cri.v1.runtime']\nenable_criu = true"),
		harness.WithCRIU(false))
	requireRefused(t, c.TryCheckpoint(file), codes.Unknown, "criu binary not found")
	requireOnly(t, n.Dir())
	n.Reconfigure(harness.WithCRIU(true), harness.WithRestoreConfig("enable = false"))
	c.Checkpoint(file)
	if strings.Contains(n.DaemonLog(), "checkpointed container") {
		t.Error("the plugin is off and takes checkpoints")
	}
}

// requireOnly fails the test unless the directory holds these names and no other.
func requireOnly(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	if !slices.Equal(found, names) {
		t.Errorf("%s holds %q, want %q", dir, found, names)
	}
}

// A checkpoint whose caller loses patience, or whose time is up, leaves nothing, and the container runs on.
func TestCheckpointGivenUp(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	c := pod.Run("heap", workloadImage(t, n), workload("heap", "512"))
	c.WaitLine("ok 2 ")
	before := n.Inventory(t)
	file := filepath.Join(n.Dir(), "late.tar")

	_, err := n.Runtime().CheckpointContainer(n.Context(),
		&runtime.CheckpointContainerRequest{ContainerId: c.ID, Location: file, Timeout: 1})
	if err != nil {
		requireRefused(t, err, codes.DeadlineExceeded)
		requireOnly(t, n.Dir())
	} else {
		t.Log("it was done within a second")
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(n.Context())
	done := make(chan error, 1)
	go func() {
		_, err := n.Runtime().CheckpointContainer(ctx, &runtime.CheckpointContainerRequest{ContainerId: c.ID, Location: file})
		done <- err
	}()
	waitFile(t, filepath.Join(n.Dir(), ".late.tar.*/checkpoint/checkpoint/pages-*.img"), 1)
	cancel()
	requireRefused(t, <-done, codes.Canceled)
	// Another one is refused as long as the first is being put away.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		err := c.TryCheckpoint(file)
		if err == nil {
			break
		}
		requireRefused(t, err, codes.Aborted, "another request")
		if t.Failed() || time.Now().After(deadline) {
			t.FailNow()
		}
	}
	if err := os.Remove(file); err != nil {
		t.Error(err)
	}
	requireOnly(t, n.Dir())
	n.RequireNoLeak(t, before)
	lines := len(c.Log())
	c.WaitLog(func(now []string) bool { return len(now) > lines+2 })
}
