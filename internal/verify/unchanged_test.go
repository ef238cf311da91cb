package verify

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

func TestDirectories(t *testing.T) {
	in := func(mount int32) func(*regfile.RegFileEntry) {
		return func(e *regfile.RegFileEntry) { e.MntId = &mount }
	}
	v, err := verifierOf(t, merged(criutest.Tasks(criutest.Task{PID: 1}), criutest.Files(
		criutest.Regular(10, "/data", 0o41777), criutest.Regular(11, "/data/file", 0o100644), criutest.Regular(12, "/dev/shm", 0o40700, in(criutest.DevMount)),
	)), filesSpec(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.openFiles(); err != nil {
		t.Fatal(err)
	}
	got := v.report.Directories
	if want := map[string]uint32{"/": 0o755, "/data": 0o1777}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestUnchanged(t *testing.T) {
	sized := func(size uint64) func(*regfile.RegFileEntry) { return func(e *regfile.RegFileEntry) { e.Size = &size } }
	gone := map[string]string{"remap-fpath.img": criutest.Image("REMAP_FPATH", &remap_file_path.RemapFilePathEntry{
		OrigId: proto.Uint32(10), RemapId: proto.Uint32(1), RemapType: remap_file_path.RemapType_GHOST.Enum(),
	})}
	for name, c := range map[string]struct {
		file *fdinfo.FileEntry
		more map[string]string
		says string
	}{
		"as it was":              {file: criutest.Regular(10, "/data/file", 0o100644, sized(5))},
		"size unknown":           {file: criutest.Regular(10, "/data/file", 0o100644)},
		"directory":              {file: criutest.Regular(10, "/data", 0o40755, sized(77))},
		"link":                   {file: criutest.Regular(10, "/data/link", 0o120777)},
		"other size":             {file: criutest.Regular(10, "/data/file", 0o100644, sized(6)), says: "/data/file has 5 bytes and had 6"},
		"other mode":             {file: criutest.Regular(10, "/data/file", 0o100600), says: "/data/file has mode 0100644 and had 0100600"},
		"other type":             {file: criutest.Regular(10, "/data/file", 0o40644), says: "has mode 0100644 and had 040644"},
		"not there":              {file: criutest.Regular(10, "/data/none", 0o100644), says: "/data/none is not there"},
		"deleted":                {file: criutest.Regular(10, "/data/none", 0o100644), more: gone},
		"in another file system": {file: criutest.Regular(10, "/dev/none", 0o100644, func(e *regfile.RegFileEntry) { e.MntId = proto.Int32(criutest.DevMount) })},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.Chmod(root, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(root, "data"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, "data/file"), []byte("12345"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/none", filepath.Join(root, "data/link")); err != nil {
				t.Fatal(err)
			}
			spec := filesSpec(nil)
			images := stage(t, merged(criutest.Tasks(criutest.Task{PID: 1}), criutest.Files(c.file), c.more), spec, root)
			err := inContainer(t, subjectOf(t, images, spec, Rules{}), root, &Report{}, (*container).paths, (*container).unchanged)
			switch {
			case c.says == "" && err != nil:
				t.Error(err)
			case c.says != "" && (!errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("got %v, want one that says %q", err, c.says)
			}
		})
	}
}
