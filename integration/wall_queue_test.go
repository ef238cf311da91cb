package integration

import (
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestWallQueue: the message queues of a pod are those of all its containers, and each has an owner and a mode. CRIU
// would open them as root. (It dumps no container whose pod has one.)
func TestWallQueue(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	k := w.restrictedCheckpoint(t, harness.Busybox,
		harness.Shell(`exec 3</etc/passwd; trap 'echo read $(head -c 5 <&3)' USR1; `+counting))
	forged := k.with(editImages(t, k.archive, func(e *imageEditor) {
		mount := mountID(e, "/dev/mqueue")
		editNamed(e, "/etc/passwd", func(f *fdinfo.FileEntry) {
			f.Reg.Name, f.Reg.MntId, f.Reg.Size = proto.String("/dev/mqueue/q"), &mount, nil
			f.Reg.Mode, f.Reg.Flags = proto.Uint32(unix.S_IFREG|0o600), proto.Uint32(unix.O_RDWR)
		})
	}))
	shared := w.n.Pod(t)
	neighbour := shared.Run("neighbour", w.n.Image(harness.Busybox), harness.Counting())
	neighbour.Exec("sh", "-ec", "umask 077; : >/dev/mqueue/q")
	pod := always(restricted(appUser)...)
	w.all(t,
		attack("another container's", forged, pod, refusedWith("/dev/mqueue/q")).in(shared).does(signalled("QSIZE")).
			beyond(notGranted("descriptor 3", "/dev/mqueue/q")),
		twin("", k, pod).in(shared).does(signalled("root:")),
	)
}
