package integration

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

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

// TestWallFIFOExchanged: a FIFO in the place of a file that was open for reading, after the checks, or in a
// checkpoint that says it were a file. CRIU would wait for somebody to write; it is not given the chance.
func TestWallFIFOExchanged(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	const reads = `exec 3<%s; trap 'read x <&3; echo "read $x"' USR1; ` + counting
	open := w.volumeCheckpoint(t, fmt.Sprintf(reads, "/mnt/d/victim"))
	opts := restricted(0)[1:] // the root file system is writable
	own := w.checkpoint(t, harness.Busybox,
		append(opts, harness.Shell("echo own >/tmp/victim; "+fmt.Sprintf(reads, "/tmp/victim")))...)
	fifo := specialEntry(tar.TypeFifo, "tmp/victim", "")
	stopped := func(name string) stop { return fails("a FIFO is in the place of the file " + name) }
	changed := stop{at: "create", code: codes.FailedPrecondition, words: []string{"/tmp/victim has mode"}}
	w.all(t,
		attack("in a volume", open, swap(func(dir string) error {
			return errors.Join(os.Remove(victimOf(dir)), unix.Mkfifo(victimOf(dir), 0o600))
		}), stopped("\"/mnt/d/victim\"")),
		attack("of the checkpoint", w.diffed(t, own, dirEntry("tmp"), fifo), always(opts...), changed).
			beyond(stopped("\"/tmp/victim\"")),
		twin("", open, swap(nil)).does(signalled("volume own.")),
		twin("of the checkpoint", own, always(opts...)).does(signalled("own")),
	)
}
