package integration

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestDumpExchanged checkpoints a container while another of its pod, which sees its processes, exchanges a directory
// for a link to the node's files. Nothing of the node gets into the checkpoint, and all else of the container does,
// which is restored with it.
func TestDumpExchanged(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	host, secret := filepath.Join(n.Dir(), "host"), unique("secret-of-the-host")
	for _, name := range []string{"1", "2", "3"} {
		writeHostFile(t, filepath.Join(host, name), secret)
	}
	pod := n.Pod(t, harness.PodSharedPID())
	// As in TestRestoreNamespaceModes, so that the PID is free in the pod of the restore.
	pod.Run("first", n.Image(harness.Busybox), harness.Shell("for i in $(seq 200); do /bin/true; done")).WaitExited()
	c := pod.Run("victim", n.Image(harness.Busybox), harness.Counting())
	c.Exec("sh", "-ec", `mkdir -p /swap/d /kept; ln -s `+host+` /swap/l
		for i in $(seq 200); do echo "of the container $i" > /kept/$i; done; for i in 1 2 3; do echo "of the container $i" > /swap/d/$i; done`)
	attacker := pod.Run("attacker", workloadImage(t, n), workload("exchanges", "/swap", "d", "l"))
	attacker.WaitLine("exchanges")

	var archive string
	counted := c.WaitCount(5)
	seen := map[byte]int{} // what /swap/d was
	for round := 0; round < 4 || len(seen) < 2; round++ {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
		archive = checkpointOf(t, c)
		diff, files := readDiff(t, archive)
		if bytes.Contains(diff, []byte(secret)) {
			t.Fatal("the checkpoint has a file of the node")
		}
		kept := 0
		for name, h := range files {
			if strings.HasPrefix(name, "kept/") && h.Typeflag == tar.TypeReg {
				kept++
			}
			if strings.TrimSuffix(name, "/") == "swap/d" {
				seen[h.Typeflag]++
			}
		}
		if kept != 200 {
			t.Errorf("%d files of the container, want 200", kept)
		}
	}
	pod.Remove()
	restored := n.Pod(t, harness.PodSharedPID()).Run("restored", imageOf(t, n, archive))
	requireContinues(t, restored, counted)
	if got := restored.Exec("sh", "-c", "ls /kept | wc -l; cat /kept/200"); strings.Fields(got)[0] != "200" ||
		!strings.Contains(got, "of the container 200") {
		t.Errorf("the restored container has %q", got)
	}
}

// readDiff returns the changes of the root file system in an archive, and their headers by name.
func readDiff(t *testing.T, archive string) ([]byte, map[string]*tar.Header) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(tarFile(t, archive, "rootfs-diff.tar")))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return data, files
		}
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = h
	}
}
