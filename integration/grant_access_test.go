package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fs"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

const secretOfRoot = "secret of root\n"

// newAccessGrant is newGrant for a process that has the file "file" of a volume open, as descriptor 3, which says
// what is in it after a while. The volume has other files, which root alone may open.
func newAccessGrant(t *testing.T, n *harness.Node, opts ...harness.ContainerOpt) (g *grant, volume string) {
	t.Helper()
	volume = t.TempDir()
	for name, content := range map[string]string{"file": "for all\n", "secret": secretOfRoot,
		"private/file": "for all\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(volume, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(volume, name), content)
	}
	for name, mode := range map[string]os.FileMode{".": 0o755, "file": 0o644, "secret": 0o600, "private": 0o700,
		"private/file": 0o644} {
		if err := os.Chmod(filepath.Join(volume, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	g = newGrant(t, n, append([]harness.ContainerOpt{harness.Mount(volume, "/mnt", false), harness.Shell(
		`exec 3</mnt/file; i=0; while :; do i=$((i+1)); echo "count $i"; [ $i != 30 ] || cat <&3; sleep 0.1; done`)},
		opts...)...)
	return g, volume
}

// openedFile changes the file that such a process has open.
func openedFile(change func(*regfile.RegFileEntry)) func(*imageEditor) {
	return func(e *imageEditor) {
		editFile(e, func(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == "/mnt/file" },
			func(f *fdinfo.FileEntry) { change(f.Reg) })
	}
}

func secretFile(r *regfile.RegFileEntry) {
	r.Name, r.Mode, r.Size = proto.String("/mnt/secret"), proto.Uint32(0o100600), proto.Uint64(uint64(len(secretOfRoot)))
}

// addPath adds an entry for a file that no descriptor refers to, in the mount of the file that is open.
func addPath(e *imageEditor, name string, mode uint32) uint32 {
	const id = 901
	e.Files(func(all []*fdinfo.FileEntry) []*fdinfo.FileEntry {
		i := slices.IndexFunc(all, func(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == "/mnt/file" })
		f := proto.Clone(all[i]).(*fdinfo.FileEntry)
		f.Id, f.Reg.Id, f.Reg.Name, f.Reg.Mode, f.Reg.Size = proto.Uint32(id), proto.Uint32(id), &name, &mode, nil
		return append(all, f)
	})
	return id
}

// TestGrantAccess has a checkpoint open files that the pod's user may not open: CRIU would as the host's root.
func TestGrantAccess(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g, volume := newAccessGrant(t, n, restricted(appUser)...)
	asRoot, volumeOfRoot := newAccessGrant(t, n, restricted(0)...)

	for what, tc := range map[string]struct {
		change func(*imageEditor)
		words  []string
	}{
		"read": {openedFile(secretFile), []string{"/mnt/secret", "open for reading", "user 1000", "mode 0600"}},
		"write": {openedFile(func(r *regfile.RegFileEntry) { r.Flags = proto.Uint32(1) }),
			[]string{"/mnt/file", "open for writing", "mode 0644"}},
		"read write": {openedFile(func(r *regfile.RegFileEntry) { r.Flags = proto.Uint32(2) }),
			[]string{"/mnt/file", "open for reading and writing"}},
		"in a directory": {openedFile(func(r *regfile.RegFileEntry) { r.Name = proto.String("/mnt/private/file") }),
			[]string{"/mnt/private/file", "/mnt/private: owner 0:0, mode 0700"}},
		"in the image": {func(e *imageEditor) {
			root := int32(0)
			e.Files(func(all []*fdinfo.FileEntry) []*fdinfo.FileEntry {
				for _, f := range all {
					if f.GetReg().GetName() == "/" {
						root = f.GetReg().GetMntId()
					}
				}
				return all
			})
			openedFile(func(r *regfile.RegFileEntry) {
				r.Name, r.MntId, r.Flags = proto.String("/etc/passwd"), &root, proto.Uint32(2)
			})(e)
		}, []string{"/etc/passwd", "open for reading and writing"}},
		"working directory": {func(e *imageEditor) {
			id := addPath(e, "/mnt/private", 0o40700)
			editEntry(e, "fs-1.img", "FS", func(f *fs.FsEntry) { f.CwdId = &id })
		}, []string{"/mnt/private", "a process in", "mode 0700"}},
		"mapping": {func(e *imageEditor) {
			id := addPath(e, "/mnt/secret", 0o100600)
			editEntry(e, "mm-1.img", "MM", func(m *mm.MmEntry) {
				for _, v := range m.GetVmas() {
					if v.GetStatus()&0x40 != 0 { // VMA_FILE_PRIVATE
						v.Shmid = proto.Uint64(uint64(id))
					}
				}
			})
		}, []string{"/mnt/secret", "open for reading", "mode 0600"}},
		"program": {func(e *imageEditor) {
			id := addPath(e, "/mnt/secret", 0o100600)
			editEntry(e, "mm-1.img", "MM", func(m *mm.MmEntry) { m.ExeFileId = &id })
		}, []string{"/mnt/secret", "executing", "mode 0600"}},
	} {
		t.Run(what, func(t *testing.T) { g.refusesEdited(t, tc.change, codes.PermissionDenied, tc.words...) })
	}
	says := func(line string) func(*harness.Container) {
		return func(c *harness.Container) {
			c.WaitCount(32)
			if !slices.Contains(c.Log(), line) {
				t.Errorf("the process has not read %q: %q", line, c.Log())
			}
		}
	}
	t.Run("twin", func(t *testing.T) { g.accepts(t, g.archive, says("for all")) })
	// Root without capabilities has what is root's, and nothing else.
	t.Run("twin of root", func(t *testing.T) {
		asRoot.accepts(t, editImages(t, asRoot.archive, openedFile(secretFile)), says("secret of root"))
	})
	for _, dir := range []string{volume, volumeOfRoot} {
		if err := os.Chown(filepath.Join(dir, "secret"), appUser, appUser); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("owner", func(t *testing.T) {
		g.accepts(t, editImages(t, g.archive, openedFile(secretFile)), says("secret of root"))
	})
	t.Run("other's", func(t *testing.T) {
		asRoot.refusesEdited(t, openedFile(secretFile), codes.PermissionDenied, "/mnt/secret", "user 0", "owner 1000:1000")
	})
}

// TestGrantAccessOverride: whoever may override permissions may have everything open.
func TestGrantAccessOverride(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g, volume := newAccessGrant(t, n)
	if err := os.Chown(filepath.Join(volume, "secret"), appUser, appUser); err != nil {
		t.Fatal(err)
	}
	g.accepts(t, editImages(t, g.archive, openedFile(secretFile)), func(c *harness.Container) {
		c.WaitCount(32)
		if !slices.Contains(c.Log(), "secret of root") {
			t.Errorf("the process has not read the file: %q", c.Log())
		}
	})
}

// TestGrantAccessKinds restores files of all kinds as a user who has no capability: that of root, who made them.
func TestGrantAccessKinds(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	opts := append([]harness.ContainerOpt{workload(kindsOfFiles...)}, restricted(0)[1:]...)
	pod := n.Pod(t)
	c := pod.Run("kinds", workloadImage(t, n), opts...)
	g := &grant{n: n, opts: opts, prefix: "ok", counted: waitOK(t, c, 3), archive: checkpointOf(t, c)}
	pod.Remove()
	g.pod = n.Pod(t)
	g.accepts(t, g.archive, nil)
	for name, tc := range map[string]struct {
		is    func(*fdinfo.FileEntry) bool
		evil  func(*fdinfo.FileEntry)
		words []string
	}{
		"deleted file": {func(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == "/tmp/kinds.deleted" },
			func(f *fdinfo.FileEntry) { f.Reg.Name = proto.String("/home/app/kinds.deleted") },
			[]string{"making /home/app/kinds.deleted", "owner 1000:"}},
		"socket": {func(f *fdinfo.FileEntry) bool { return string(f.GetUsk().GetName()) == "/tmp/kinds.dgram\x00" },
			func(f *fdinfo.FileEntry) { f.Usk.Name = []byte("/home/app/dgram\x00") },
			[]string{"making /home/app/dgram", "owner 1000:"}},
	} {
		t.Run(name, func(t *testing.T) {
			g.refusesEdited(t, func(e *imageEditor) { editFile(e, tc.is, tc.evil) }, codes.PermissionDenied, tc.words...)
		})
	}
}

// TestGrantAccessAudit has a node that only says what it would refuse.
func TestGrantAccessAudit(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives+"\nverification = \"audit\""))
	g, _ := newAccessGrant(t, n, restricted(appUser)...)
	g.accepts(t, editImages(t, g.archive, openedFile(secretFile)), nil)
	if log := n.DaemonLog(); !strings.Contains(log, "would refuse") ||
		!strings.Contains(log, "open for reading /mnt/secret") {
		t.Error("the log does not say what strict would refuse")
	}
}
