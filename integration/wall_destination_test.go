package integration

import (
	"archive/tar"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

const linkedImage = "linked:1"

// realDir is where a link of the root file system leads.
func realDir() tarEntry {
	dir := dirEntry("real")
	dir.Mode = 0o755
	return dir
}

// pullLinked pulls an image with /linked, a link to /real, as images have /var/run.
func (w *wall) pullLinked(t *testing.T) {
	t.Helper()
	busybox, err := harness.BusyboxImage()
	if err != nil {
		t.Fatal(err)
	}
	layer := packed(t, []tarEntry{realDir(), specialEntry(tar.TypeSymlink, "linked", "real")})
	w.n.Registry().Push(linkedImage, withLayer(t, busybox, layer))
	w.n.Pull(w.n.Image(linkedImage))
}

// volumeAt is a pod with a volume (see volumeWith) in which something has happened already, and options.
func volumeAt(destination string, readonly bool, before func(dir string) error, opts ...harness.ContainerOpt) setUp {
	return func(t *testing.T) ([]harness.ContainerOpt, func()) {
		t.Helper()
		volume := volumeWith(t, appUser)
		if before != nil {
			if err := before(filepath.Join(volume, "d")); err != nil {
				t.Fatal(err)
			}
		}
		return append([]harness.ContainerOpt{harness.Mount(volume, destination, readonly)}, opts...), nil
	}
}

// TestWallDestination: a volume whose destination is below a link of the image, with a link in it. Where the volume is
// in the end, nobody had looked for links.
func TestWallDestination(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	w.pullLinked(t)
	mount := harness.Mount(volumeWith(t, appUser), "/linked/v", false)
	script := harness.Shell(readsAndWrites("/linked/v/d/victim"))
	open := w.restrictedCheckpoint(t, linkedImage, mount, script)
	// A process that may override permissions: nobody asks for them then.
	ofRoot := w.checkpoint(t, linkedImage, mount, script)
	deleted := w.forged(t, open, "/real/v", deletedFile("/real/v/d/evil"))
	moved := w.movedBehindLink(t, w.volumeCheckpoint(t, readsAndWrites("/mnt/d/victim")))

	byDescriptor, absolute := linkInstead(openedByCRIU(w.secrets)), linkInstead(w.secrets)
	writable := restricted(appUser)[1:] // the root file system is
	linked := func(before func(string) error) setUp { return volumeAt("/linked/v", false, before, writable...) }
	moves := func(before func(string) error) setUp { return volumeAt("/mnt", false, before, writable...) }
	free := func(before func(string) error) setUp { return volumeAt("/linked/v", false, before) }
	refused, host, own := refusedWith("symbolic link"), signalled("host secret"), signalled("volume own.")
	w.all(t,
		attack("open file", open, linked(byDescriptor), refused).audited(notFollowed).does(host),
		attack("open file of root", ofRoot, free(byDescriptor), refused).audited(notFollowed).does(host),
		attack("deleted file", deleted, linked(absolute), refused).audited(notFollowed),
		attack("link of the checkpoint", moved, moves(byDescriptor), refused).audited(notFollowed).does(host),
		twin("", open, linked(nil)).does(own),
		twin("of root", ofRoot, free(nil)).does(own),
		twin("of the deleted file", deleted, linked(nil)).does(own),
		twin("of the checkpoint's link", moved, moves(nil)).does(own),
	)
}

// movedBehindLink makes the destination of a volume, /mnt, a link of the checkpoint to /real, where the volume is then.
func (w *wall) movedBehindLink(t *testing.T, k taken) taken {
	t.Helper()
	diffed := w.diffed(t, k, realDir(), specialEntry(tar.TypeSymlink, "mnt", "real"))
	return k.with(editImages(t, diffed.archive, func(e *imageEditor) {
		e.Mounts(at("/mnt", func(m *mnt.MntEntry) { m.Mountpoint, m.ExtKey = proto.String("/real"), proto.String("/real") }))
		e.Files(func(all []*fdinfo.FileEntry) []*fdinfo.FileEntry {
			for _, f := range all {
				if rest, ok := strings.CutPrefix(f.GetReg().GetName(), "/mnt/"); ok {
					f.Reg.Name = proto.String("/real/" + rest)
				}
			}
			return all
		})
	}))
}

// TestWallReadonlyVolume: a deleted file in a read-only volume, for which CRIU makes the mount writable. The volume is
// where a link of the image leads.
func TestWallReadonlyVolume(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	w.pullLinked(t)
	k := w.restrictedCheckpoint(t, linkedImage, harness.Shell(counting), harness.Mount(t.TempDir(), "/linked/v", true))
	writable := restricted(appUser)[1:] // the root file system is
	var volume string
	readonly := volumeAt("/linked/v", true, func(dir string) error {
		volume = filepath.Dir(dir)
		return nil
	}, writable...)
	refused, unwritable := refusedWith("/real/v/d", "read-only"), fails("readonly sb")
	touches := func() []string { return []string{volume} }
	deleted := func(name string, f forged) wallAttack {
		return attack(name, w.forged(t, k, "/real/v", f), readonly, refused).beyond(unwritable).keeps(touches)
	}
	honest := w.forged(t, k, "/real/v", deletedFile("/real/v/d/evil"))
	w.all(t,
		deleted("file", deletedFile("/real/v/d/evil")),
		deleted("directory", deletedDir("/real/v/d/evil/deep", 0o755)),
		deleted("directory over one", deletedDir("/real/v/d", 0o777)).beyond(fails("something is where the directory was")),
		twin("", honest, volumeAt("/linked/v", false, nil, writable...)),
	)
}
