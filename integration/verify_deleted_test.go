package integration

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestVerifyDeletedDirectory restores a process whose working directory, in a volume, has been deleted. CRIU makes it anew, by its path, and
// takes what has appeared there meanwhile for what it has made.
func TestVerifyDeletedDirectory(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	volume := t.TempDir()
	img := n.Image(harness.Busybox)
	opts := []harness.ContainerOpt{
		harness.Shell(`mkdir -m 777 /vol/gone; cd /vol/gone; rmdir /vol/gone; i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`),
		harness.Mount(volume, "/vol", false),
	}
	pod := n.Pod(t)
	c := pod.Run("deleted", img, opts...)
	counted := c.WaitCount(3)
	archive := checkpointOf(t, c)
	pod.Remove()

	t.Run("nothing there", func(t *testing.T) {
		requireContinues(t, n.Pod(t).Run("deleted", archive, opts...), counted)
		if left := fileNames(t, volume); len(left) != 0 {
			t.Errorf("left in the volume: %q", left)
		}
	})
	t.Run("appears before the start", func(t *testing.T) {
		c := n.Pod(t).Create("deleted", archive, opts...)
		secret := filepath.Join(volume, "gone")
		if err := os.WriteFile(secret, []byte("of somebody else"), 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(secret)
		if err := c.TryStart(); err == nil {
			t.Error("it was started")
		}
		var st unix.Stat_t
		if err := unix.Lstat(secret, &st); err != nil || st.Uid != 0 || st.Mode&0o7077 != 0 {
			t.Errorf("%v, owner %d, mode %o", err, st.Uid, st.Mode)
		}
	})
	t.Run("there before", func(t *testing.T) {
		if err := os.Mkdir(filepath.Join(volume, "gone"), 0o700); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(filepath.Join(volume, "gone"))
		_, err := n.Pod(t).TryCreate("deleted", archive, opts...)
		requireRefused(t, err, codes.PermissionDenied, "/vol/gone", "something is now")
	})
}
