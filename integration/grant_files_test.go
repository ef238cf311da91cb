package integration

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// newOpenFileGrant is newGrant for a process that has a file of a volume open, as descriptor 3.
func newOpenFileGrant(t *testing.T, n *harness.Node, opts ...harness.ContainerOpt) *grant {
	t.Helper()
	volume := t.TempDir()
	writeFile(t, filepath.Join(volume, "file"), "content of the volume\n")
	return newGrant(t, n, append([]harness.ContainerOpt{harness.Mount(volume, "/mnt", false), harness.Shell(
		`exec 3</mnt/file; i=0; while :; do i=$((i+1)); echo "count $i"; [ $i != 30 ] || cat <&3 >/tmp/read; sleep 0.1; done`)}, opts...)...)
}

// TestGrantFiles opens a file that is not one of the container's (T37). The other kinds of open files are
// TestVerifyFiles'.
func TestGrantFiles(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newOpenFileGrant(t, n)
	named := func(name string) func(*imageEditor) {
		return func(e *imageEditor) {
			e.Files(func(all []*fdinfo.FileEntry) []*fdinfo.FileEntry {
				i := slices.IndexFunc(all, func(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == "/mnt/file" })
				if i < 0 {
					t.Fatal("the checkpoint does not have the file open")
				}
				all[i].Reg.Name = proto.String(name)
				return all
			})
		}
	}
	for _, name := range []string{"/mnt/../../../../../../../etc/shadow", "/../etc/shadow", "//etc/shadow", "/mnt/./file",
		"etc/shadow", "/mnt/..", ""} {
		t.Run("path "+name, func(t *testing.T) {
			g.refusesEdited(t, named(name), codes.InvalidArgument, "files.img",
				"path")
		})
	}
	t.Run("not in its mount", func(t *testing.T) {
		g.refusesEdited(t, named("/etc/passwd"), codes.InvalidArgument, "files.img", "/etc/passwd")
	})
	t.Run("twin", func(t *testing.T) {
		g.accepts(t, g.archive, func(c *harness.Container) {
			c.WaitCount(32)
			if got := c.Exec("cat", "/tmp/read"); got != "content of the volume\n" {
				t.Errorf("read from the open file: %q", got)
			}
		})
	})
}
