package integration

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// notFollowed is how CRIU fails when the kernel has followed no link for it.
var notFollowed = fails("Too many levels of symbolic links")

// volumeWith makes a volume with the folder "d" of a user, and in it the user's file "victim".
func volumeWith(t *testing.T, user int) string {
	t.Helper()
	volume := t.TempDir()
	dir := filepath.Join(volume, "d")
	file := filepath.Join(dir, "victim")
	err := errors.Join(os.Chmod(volume, 0o755), os.Mkdir(dir, 0o755), os.WriteFile(file, []byte("volume own.\n"), 0o600),
		os.Chown(dir, user, user), os.Chown(file, user, user))
	if err != nil {
		t.Fatal(err)
	}
	return volume
}

// swap is a pod with such a volume at /mnt, to which another container of the pod can write as well.
func swap(between func(dir string) error) setUp {
	return func(t *testing.T) ([]harness.ContainerOpt, func()) {
		t.Helper()
		volume := volumeWith(t, appUser)
		return append(restricted(appUser), harness.Mount(volume, "/mnt", false)), func() {
			if between == nil {
				return
			}
			if err := between(filepath.Join(volume, "d")); err != nil {
				t.Error(err)
			}
		}
	}
}

// linkInstead replaces a folder by a link.
func linkInstead(target string) func(string) error {
	return func(dir string) error { return errors.Join(os.Rename(dir, dir+".old"), os.Symlink(target, dir)) }
}

// volumeCheckpoint is a checkpoint of a process in such a pod.
func (w *wall) volumeCheckpoint(t *testing.T, script string) taken {
	t.Helper()
	mount := harness.Mount(volumeWith(t, appUser), "/mnt", false)
	return w.restrictedCheckpoint(t, harness.Busybox, mount, harness.Shell(script))
}

// TestWallSwap: an honest checkpoint, and another container of the pod that replaces a folder of a volume after the
// checks and before CRIU uses it.
func TestWallSwap(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	open := w.volumeCheckpoint(t, readsAndWrites("/mnt/d/victim"))
	standing := w.volumeCheckpoint(t, `cd /mnt/d; trap 'echo read $(ls)' USR1; `+counting)
	deleted := w.forged(t, open, "/mnt", deletedFile("/mnt/d/evil"))
	byDescriptor, absolute := swap(linkInstead(openedByCRIU(w.secrets))), swap(linkInstead(w.secrets))
	w.all(t,
		attack("open file", open, byDescriptor, notFollowed).does(signalled("host secret")),
		attack("working directory", standing, byDescriptor, notFollowed).does(signalled("empty victim")),
		attack("deleted file", deleted, absolute, notFollowed),
		twin("", open, swap(nil)).does(signalled("volume own.")),
		twin("of the working directory", standing, swap(nil)).does(signalled("victim")),
		twin("of the deleted file", deleted, swap(nil)).does(signalled("volume own.")),
	)
}
