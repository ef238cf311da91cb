package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// keyVolume makes a volume as kubelet does: the key is a link to ..data/key, and that is one to a directory with a name
// of its own.
func keyVolume(t *testing.T, version, content string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeHostFile(t, filepath.Join(dir, version, "key"), content)
	for name, target := range map[string]string{"..data": version, "key": "..data/key"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestRestoreKeys restores a program that watches, has open and is in a directory of a ConfigMap's volume: in the new
// pod the directory has another name, and the program has the new pod's content. Where the key is not there any more
// the container is refused when it is created.
func TestRestoreKeys(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	img := workloadImage(t, n)
	old := keyVolume(t, "..2026_12_01_10_00_00.1", "first")
	mount := func(dir string) harness.ContainerOpt { return harness.Mount(dir, "/etc/config", true) }
	pod := n.Pod(t)
	c := pod.Run("key", img, workload("key", "/etc/config/key"), mount(old))
	counted := waitOK(t, c, 3)
	archive := checkpointOf(t, c)
	pod.Remove()

	without := keyVolume(t, "..2026_12_01_12_00_00.3", "third")
	if err := os.Rename(filepath.Join(without, "..data/key"), filepath.Join(without, "..data/other")); err != nil {
		t.Fatal(err)
	}
	for name, refused := range map[string]struct {
		dir  string
		word string
	}{
		"without the key": {without, "/etc/config/..2026_12_01_12_00_00.3/key is not there"},
		"of another kind": {t.TempDir(), "/etc/config/..2026_12_01_10_00_00.1/key is not there"},
	} {
		t.Run(name, func(t *testing.T) {
			n := n.In(t)
			before := n.Inventory(t)
			pod := n.Pod(t)
			_, err := pod.TryCreate("refused", archive, mount(refused.dir))
			requireRefused(t, err, codes.FailedPrecondition, refused.word, "they are in volumes", "mount volumes that have them")
			pod.Remove()
			n.RequireNoLeak(t, before)
		})
	}

	renewed := keyVolume(t, "..2026_12_01_11_00_00.2", "second, which is longer")
	for generation := range 2 {
		pod = n.Pod(t)
		c = pod.Run("restored", archive, mount(renewed))
		waitOK(t, c, counted+2)
		lines := c.WaitLog(func(lines []string) bool { return strings.Contains(lines[len(lines)-1], "named secon") })
		if last := lines[len(lines)-1]; !strings.Contains(last, "open secon, named secon, events 0") && generation == 0 {
			t.Errorf("the last line is %q", last)
		}
		before := lines[len(lines)-1]
		if err := os.Chmod(filepath.Join(renewed, "..data/key"), 0o644); err != nil {
			t.Fatal(err)
		}
		c.WaitLog(func(lines []string) bool {
			_, was, _ := strings.Cut(before, "events ")
			_, is, ok := strings.Cut(lines[len(lines)-1], "events ")
			return ok && is != was
		})
		counted = waitOK(t, c, counted)
		if generation == 0 {
			archive = checkpointOf(t, c)
			pod.Remove()
		}
	}
}

// TestRestoreMissingInVolume refuses a checkpoint with a file open that the new pod's volume lacks, or has otherwise,
// when the container is created, and by its name. With the file as it was it is restored.
func TestRestoreMissingInVolume(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	volume := filepath.Join(n.Dir(), "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	archive, counted := countingCheckpoint(t, n, harness.Mount(volume, "/data", false), harness.Shell(
		`exec 3>/data/log; echo written >&3; i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`))
	for what, change := range map[string]struct {
		do   func(dir string)
		says string
	}{
		"missing": {func(string) {}, "/data/log is not there"},
		"another size": {func(dir string) { writeMode(t, filepath.Join(dir, "log"), "more than written\n", 0o644) },
			"/data/log has 18 bytes and had 8"},
		"as a directory": {func(dir string) { writeHostFile(t, filepath.Join(dir, "log/x"), "") },
			"/data/log has mode 040755 and had 0100644"},
	} {
		t.Run(what, func(t *testing.T) {
			n := n.In(t)
			before := n.Inventory(t)
			fresh := t.TempDir()
			change.do(fresh)
			pod := n.Pod(t)
			_, err := pod.TryCreate("refused", archive, harness.Mount(fresh, "/data", false))
			requireRefused(t, err, codes.FailedPrecondition, change.says, "of which a checkpoint has no content")
			pod.Remove()
			n.RequireNoLeak(t, before)
		})
	}
	requireContinues(t, n.Pod(t).Run("restored", archive, harness.Mount(volume, "/data", false)), counted)
}

// writeMode writes a file of a volume that has these permissions.
func writeMode(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	writeHostFile(t, name, content)
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}
