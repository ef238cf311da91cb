package integration

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// stickyVolume makes a volume that everybody may write to, with a file and folders of root.
func stickyVolume(t *testing.T) string {
	t.Helper()
	volume := t.TempDir()
	err := errors.Join(unix.Chmod(volume, 0o1777),
		os.WriteFile(filepath.Join(volume, "victim"), []byte(hostSecret), 0o600),
		os.Mkdir(filepath.Join(volume, "private"), 0o700), os.Mkdir(filepath.Join(volume, "empty"), 0o700))
	if err != nil {
		t.Fatal(err)
	}
	writeHostFile(t, filepath.Join(volume, "private", "file"), hostSecret)
	return volume
}

// TestWallDirectory: CRIU makes a deleted directory anew, and takes one that is there, or a file, for it, which then
// gets owner and mode of the checkpoint's.
func TestWallDirectory(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	k := w.restrictedCheckpoint(t, harness.Busybox, harness.Mount(t.TempDir(), "/mnt", false), harness.Shell(counting))
	setIDFile := deletedFile("/mnt/evil").ofRoot()
	setIDFile.mode |= unix.S_ISUID
	var volume string
	pod := func(t *testing.T) ([]harness.ContainerOpt, func()) {
		volume = stickyVolume(t)
		return append(restricted(appUser)[1:], harness.Mount(volume, "/mnt", false)), nil // the root is writable
	}
	var attacks []wallAttack
	for name, c := range map[string]struct {
		f     forged
		words []string
	}{
		"over a file":             {deletedDir("/mnt/victim", 0o777), []string{"/mnt/victim"}},
		"over a directory":        {deletedDir("/mnt/private", 0o777), []string{"/mnt/private"}},
		"over an empty directory": {deletedDir("/mnt/empty", 0o777), []string{"/mnt/empty"}},
		"set-user-ID":             {deletedDir("/mnt/victim", 0o4755).ofRoot(), []string{"/mnt/victim", "set-user-ID"}},
		"set-user-ID file":        {setIDFile, []string{"/mnt/evil", "set-user-ID"}},
		"file of another user":    {deletedFile("/mnt/file").ofRoot(), []string{"/mnt/file"}},
		"the volume":              {deletedDir("/mnt", 0o777), []string{"/mnt"}},
	} {
		bad := w.forged(t, k, "/mnt", c.f)
		if name == "the volume" {
			// Whoever may write to the root directory might have removed it, if it were not for the mount.
			bad = bad.with(editImages(t, bad.archive, func(e *imageEditor) { rootMode(e, 0o777) }))
		}
		a := attack(name, bad, pod, refusedWith(c.words...)).beyond(fails(c.words...)).
			keeps(func() []string { return []string{volume} })
		attacks = append(attacks, a)
	}
	honest := w.forged(t, k, "/mnt", deletedFile("/mnt/file"))
	// Whoever's it is in the checkpoint, a deleted directory in a volume is made as root's.
	another := w.forged(t, k, "/mnt", deletedDir("/mnt/dir", 0o755).ofRoot())
	w.all(t, append(attacks, twin("", honest, pod), twin("directory", another, pod))...)
}

// rootMode says that the root directory had another mode.
func rootMode(e *imageEditor, perm uint32) {
	e.t.Helper()
	e.Files(func(all []*fdinfo.FileEntry) []*fdinfo.FileEntry {
		for _, f := range all {
			if f.GetReg().GetName() == "/" {
				f.Reg.Mode = proto.Uint32(unix.S_IFDIR | perm)
			}
		}
		return all
	})
}
