package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// notGranted is what the guard says of a file that the pod's user may not open.
func notGranted(words ...string) stop {
	return refusedAtStart(append(words, "more than its pod was granted", fmt.Sprintf("user %d", appUser))...)
}

// refusedAtStart is a refusal by the guard, which has killed the processes.
func refusedAtStart(words ...string) stop {
	by := refusedWith(words...)
	by.at = "start"
	return by
}

// closedVolume is volumeWith, and beside its folder "d" what only root may open: a file, and folders. All are such
// that CRIU cannot tell them from the user's own.
func closedVolume(t *testing.T, user int) string {
	t.Helper()
	volume := volumeWith(t, user)
	at := func(name string) string { return filepath.Join(volume, name) }
	err := errors.Join(os.WriteFile(at("secret"), []byte(hostSecret), 0o600), os.Mkdir(at("closed"), 0o700),
		os.WriteFile(at("closed/victim"), []byte(hostSecret), 0o600), os.Chown(at("closed/victim"), user, user),
		os.Mkdir(at("own"), 0o700), os.WriteFile(at("own/mine"), nil, 0o600), os.Chown(at("own"), user, user))
	if err != nil {
		t.Fatal(err)
	}
	return volume
}

// exchange is a pod with such a volume at /mnt, in which another container moves what it cannot open.
func exchange(between func(at func(name string) string) error) setUp {
	return func(t *testing.T) ([]harness.ContainerOpt, func()) {
		t.Helper()
		volume := closedVolume(t, appUser)
		return append(restricted(appUser), harness.Mount(volume, "/mnt", false)), func() {
			if err := between(func(name string) string { return filepath.Join(volume, name) }); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestWallOwner: somebody who may rename in a volume, and no more, moves another user's file to the path of one that
// the process had open, after the checks. CRIU opens it as root; the guard sees whose it is before the process runs.
func TestWallOwner(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	checkpoint := func(script string) taken {
		mount := harness.Mount(closedVolume(t, appUser), "/mnt", false)
		return w.restrictedCheckpoint(t, harness.Busybox, mount, harness.Shell(script))
	}
	open := checkpoint(readsAndWrites("/mnt/d/victim"))
	standing := checkpoint(`cd /mnt/own; trap 'echo read $(ls)' USR1; ` + counting)
	listing := checkpoint(`exec 3</mnt/own; ` + counting)
	removed := checkpoint(`mkdir /mnt/own/gone; cd /mnt/own/gone; rmdir /mnt/own/gone; ` + counting)
	type places = func(string) string
	moved := exchange(func(at places) error { return os.Rename(at("secret"), at("d/victim")) })
	linked := exchange(func(at places) error {
		return errors.Join(os.Remove(at("d/victim")), os.Link(at("secret"), at("d/victim")))
	})
	below := exchange(func(at places) error {
		return errors.Join(os.Rename(at("d"), at("d.old")), os.Rename(at("closed"), at("d")))
	})
	closed := exchange(func(at places) error {
		return errors.Join(os.Rename(at("own"), at("own.old")), os.Rename(at("closed"), at("own")))
	})
	rewritten := exchange(func(at places) error {
		file := at("d/new")
		return errors.Join(os.WriteFile(file, []byte("volume new.\n"), 0o600), os.Chown(file, appUser, appUser),
			os.Rename(file, at("d/victim")))
	})
	untouched := exchange(func(places) error { return nil })
	w.all(t,
		attack("file", open, moved, notGranted("descriptor 3", "/mnt/d/victim")).does(signalled("host secret")),
		attack("hard link", open, linked, notGranted("descriptor 3", "/mnt/d/victim")).does(signalled("host secret")),
		attack("folder above", open, below, notGranted("descriptor 3", "a directory above it")).
			does(signalled("host secret")),
		attack("working directory", standing, closed, notGranted("cwd", "/mnt/own")).does(signalled("victim")),
		attack("folder", listing, closed, notGranted("descriptor 3", "/mnt/own")),
		twin("", open, untouched).does(signalled("volume own.")),
		twin("of the working directory", standing, untouched).does(signalled("mine")),
		twin("of the folder", listing, untouched),
		twin("of a removed working directory", removed, untouched),
		twin("of a file that is written anew", open, rewritten).does(signalled("volume new.")),
	)
}

// TestWallOwnerAudited: a node that only audits lets a file through that the checkpoint itself asks for, and says so,
// twice.
func TestWallOwnerAudited(t *testing.T) {
	t.Parallel()
	w := newWall(t, harness.WithRestoreConfig(`verification = "audit"`))
	open := closedVolume(t, appUser)
	if err := os.Chown(filepath.Join(open, "secret"), appUser, appUser); err != nil {
		t.Fatal(err)
	}
	k := w.restrictedCheckpoint(t, harness.Busybox, harness.Mount(open, "/mnt", false),
		harness.Shell(readsAndWrites("/mnt/secret")))
	c := w.n.Pod(t).Create("audited", k.archive,
		append(restricted(appUser), harness.Mount(closedVolume(t, appUser), "/mnt", false))...)
	waitDaemonLog(t, w.n, c.ID, "would refuse", "/mnt/secret")
	c.Start()
	requireContinues(t, c, k.counted)
	waitDaemonLog(t, w.n, c.ID, "would have killed", "/mnt/secret")
}
