package restore

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// Another container of the pod may exchange a directory of /dev/shm for a link while the checkpoint's files come into
// it: nothing of them gets out of it, and without one they all come.
func TestFillShmSwapped(t *testing.T) {
	base := mountDir(t)
	shm, node := mkdir(t, base, "shm"), mkdir(t, base, "node")
	dir, other := mkdir(t, shm, "d"), filepath.Join(shm, "other")
	check(t, os.Symlink(node, other))
	spec := &specs.Spec{Mounts: []specs.Mount{{Destination: "/dev/shm", Type: "bind", Source: shm}}}
	c := open(t, map[string]string{"devshm-checkpoint.tar": tarball(t, file("d/a", "1"), file("d/b", "2"),
		special('1', "d/c", "d/a"))})
	fill := func() (func() error, error) { return FillShm(t.Context(), c, spec, checkpoint.DefaultLimits()) }

	undo, err := fill()
	check(t, err)
	if got := names(t, dir); len(got) != 3 {
		t.Errorf("filled with %q", got)
	}
	check(t, undo())

	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
			}
		}
	}()
	defer func() { close(stop); <-ended }()
	refused := 0
	for i := 0; i < 2000 || refused == 0; i++ {
		check(t, t.Context().Err())
		if _, err := fill(); err != nil {
			refused++
		}
		if got := names(t, node); len(got) > 0 {
			t.Fatalf("the node has got %q", got)
		}
	}
}
