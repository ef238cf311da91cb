package integration

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// victimOf is the file that is open in a folder.
func victimOf(dir string) string { return filepath.Join(dir, "victim") }

// fails is an end by CRIU.
func fails(words ...string) stop { return stop{at: "start", code: codes.Unknown, words: words} }

// TestWallExchange: what another container of the pod can put in the place of something in a volume, after the checks
// and before CRIU uses it, apart from links.
func TestWallExchange(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	open := w.volumeCheckpoint(t, readsAndWrites("/mnt/d/victim"))
	deleted := w.forged(t, open, "/mnt", deletedFile("/mnt/d/evil"))
	w.all(t,
		attack("device", open, swap(func(dir string) error {
			const kind = unix.S_IFCHR | 0o666
			return errors.Join(os.Remove(victimOf(dir)), unix.Mknod(victimOf(dir), kind, int(unix.Mkdev(240, 77))))
		}), fails("Operation not permitted")),
		attack("nothing", open, swap(func(dir string) error { return os.Remove(victimOf(dir)) }), fails("No such file")),
		twin("of a file that appears", deleted, swap(func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "evil"), []byte("here\n"), 0o600)
		})).does(func(t *testing.T, c *harness.Container) {
			signalled("volume own.")(t, c)
			if got := c.Exec("ls", "/mnt/d"); got != "evil\nvictim\n" {
				t.Errorf("files in the volume: %q", got)
			}
		}),
	)
}
