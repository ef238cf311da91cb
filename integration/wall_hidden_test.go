package integration

import (
	"archive/tar"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestWallHidden: files that were deleted in the root file system below a mount that hides them. CRIU makes them
// there, from outside the container, where a link of the checkpoint leads to the host.
func TestWallHidden(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	opts := restricted(0)[1:] // the root file system is writable
	k := w.checkpoint(t, harness.Busybox, append(opts, harness.Shell(counting))...)
	toHost := w.diffed(t, k, dirEntry("dev"), specialEntry(tar.TypeSymlink, "dev/l", w.secrets),
		specialEntry(tar.TypeSymlink, "dev/link_remap.1", w.secrets))
	pod := always(opts...)
	var attacks []wallAttack
	for name, files := range map[string][]forged{
		"file":                  {deletedFile("/dev/l/evil").ofRoot()},
		"directory":             {deletedDir("/dev/l/evil/deep", 0o777).ofRoot()},
		"directory over a file": {deletedDir("/dev/l/victim", 0o777)},
		"empty directory":       {deletedDir("/dev/l/empty", 0o700).ofRoot()},
		// CRIU deletes the link before it deletes what it has made behind it.
		"file that stays": {
			deletedFile("/dev/link_remap.1/evil").ofRoot(),
			{name: "/dev/link_remap.1", linkOf: "/dev/other", mode: unix.S_IFLNK | 0o777},
		},
	} {
		bad := w.forged(t, toHost, "/", files...)
		attacks = append(attacks, attack(name, bad, pod, refusedWith("/dev")).audited(notFollowed))
	}
	inTmp := w.forged(t, w.diffed(t, k, dirEntry("tmp"), dirEntry("tmp/l")), "/",
		deletedFile("/tmp/l/evil").ofRoot(), deletedDir("/tmp/l/dir", 0o700).ofRoot())
	w.all(t, append(attacks, twin("", inTmp, pod))...)
}
