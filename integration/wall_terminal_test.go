package integration

import (
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestWallTerminal: a pod with a terminal, whose console is said to be of a file system that is not there.
func TestWallTerminal(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	k := w.checkpoint(t, harness.Busybox, harness.Tty(), harness.Counting())
	bad := k.with(editImages(t, k.archive, func(e *imageEditor) {
		e.Mounts(without("/dev/pts"))
		e.Mounts(at("/dev/console", func(m *mnt.MntEntry) {
			m.ExtKey, m.Fstype = nil, proto.Uint32(uint32(mnt.Fstype_DEVPTS))
			m.Source, m.Options = proto.String("devpts"), proto.String("")
		}))
		console := mountID(e, "/dev/console")
		editNamed(e, "/dev/pts/0", func(f *fdinfo.FileEntry) {
			f.Reg.Name, f.Reg.MntId = proto.String("/dev/console"), &console
		})
	}))
	pod := always(harness.Tty())
	w.all(t,
		attack("console without devpts", bad, pod, refusedWith("/dev/pts")).audited(fails("proper root mount")),
		twin("", k, pod),
	)
}
