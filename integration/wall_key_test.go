package integration

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestWallKey: CVE-2026-119101. A volume at a link of the root file system that leads to a name with "]:" in it:
// runc names the volume to CRIU by where the link leads, and CRIU takes what is behind "]:" for a directory of the
// host, for another volume.
func TestWallKey(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	k := w.checkpoint(t, harness.Busybox, harness.Mount(t.TempDir(), "/data", false),
		harness.Mount(t.TempDir(), "/evil", false), harness.Shell(`trap 'echo read $(ls /data)' USR1; `+counting))
	// CRIU binds "<volume>/x]:<the other volume>": folders of that name are the attacker's, one of them a link.
	data, other := t.TempDir(), filepath.Join(t.TempDir(), "other", filepath.Base(w.secrets))
	odd := filepath.Join(data, "x]:"+filepath.Dir(other))
	err := errors.Join(os.MkdirAll(other, 0o755), os.MkdirAll(filepath.Dir(odd), 0o755),
		os.Symlink(filepath.Dir(w.secrets), odd))
	if err != nil {
		t.Fatal(err)
	}
	linked := func(target string) taken {
		diffed := w.diffed(t, k, dirEntry("data"), specialEntry(tar.TypeSymlink, "evil", target))
		return k.with(editImages(t, diffed.archive, func(e *imageEditor) {
			e.Mounts(at("/evil", func(m *mnt.MntEntry) { m.Mountpoint, m.ExtKey = proto.String(target), proto.String(target) }))
		}))
	}
	pod := always(harness.Mount(data, "/data", false), harness.Mount(other, "/evil", false))
	w.all(t,
		attack("key with a path", linked("/data]:"+data+"/x"), pod, refusedWith("/data]:")).does(signalled("empty victim")).
			beyond(fails("]:")),
		twin("", linked("/other"), pod),
	)
}
