package integration

import (
	"fmt"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestWallFIFO: a volume that is a FIFO is no directory, and whoever opens it to look may wait for ever. More restores
// of it than work at a time must not keep another pod from its own.
func TestWallFIFO(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	mount := harness.Mount(fifo, "/mnt/fifo", false)
	k := w.checkpoint(t, harness.Busybox, mount, harness.Counting())
	plain := w.checkpoint(t, harness.Busybox, harness.Counting())
	for _, mode := range []string{"strict", "audit"} {
		if mode != "strict" {
			w.n.Reconfigure(harness.WithRestoreConfig(`verification = "audit"`))
		}
		t.Run(mode, func(t *testing.T) {
			pod, other := w.n.Pod(t), w.n.Pod(t)
			restored := make([]*harness.Container, 5)
			var all errgroup.Group
			for i := range restored {
				all.Go(func() (err error) {
					if restored[i], err = pod.TryCreate(fmt.Sprintf("fifo-%d", i), k.archive, mount); err == nil {
						err = restored[i].TryStart()
					}
					return err
				})
			}
			// While they are at it, and whatever becomes of them.
			requireContinues(t, other.Run("honest", plain.archive), plain.counted)
			if err := all.Wait(); err != nil {
				t.Fatal(err)
			}
			for _, c := range restored {
				requireContinues(t, c, k.counted)
				c.Exec("test", "-p", "/mnt/fifo")
			}
		})
	}
}
