package integration

import (
	"archive/tar"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// shmEntries are a folder "l" of /dev/shm with a file "victim" that has the size of the host's.
func shmEntries() []tarEntry {
	dir, file := dirEntry("l"), regularEntry("l/victim", "shm's own..\n")
	dir.Uid, dir.Gid, file.Uid, file.Gid = appUser, appUser, appUser, appUser
	return []tarEntry{dir, file}
}

// TestWallShm: an image alone, with a link among its files of /dev/shm, would open any file of the host.
func TestWallShm(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	k := w.restrictedCheckpoint(t, harness.Busybox, harness.Shell(`mkdir /dev/shm/l; echo "shm's own.." >/dev/shm/l/victim
		chmod 600 /dev/shm/l/victim; `+readsAndWrites("/dev/shm/l/victim")))
	with := func(entries ...tarEntry) taken {
		shm := regularEntry("devshm-checkpoint.tar", string(packed(t, entries)))
		return k.with(doctoredArchive(t, w.n, withEntries(entriesOf(t, k.archive), shm)))
	}
	link := with(specialEntry(tar.TypeSymlink, "l", openedByCRIU(w.secrets)))
	pod := always(restricted(appUser)...)
	w.all(t,
		attack("link", link, pod, refusedWith("/dev/shm", "symbolic link")).audited(notFollowed).in(nil).
			does(signalled("host secret")),
		twin("", with(shmEntries()...), pod).in(nil).does(signalled("shm's own..")),
	)
}
