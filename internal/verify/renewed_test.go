package verify

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// TestRenewed: a volume as kubelet makes it, in the directory of which nothing has the name that it had in another pod.
func TestRenewed(t *testing.T) {
	sized := func(e *regfile.RegFileEntry) { e.Size = proto.Uint64(77) }
	file := func(name string) *fdinfo.FileEntry { return criutest.Regular(10, name, 0o100644, sized) }
	for name, c := range map[string]struct {
		make string // below the volume, a link if it has an arrow
		file *fdinfo.FileEntry
		want string // the name that CRIU is to read
		says string
	}{
		"key":                 {"..new/key ..data->..new", file("/cm/..old/key"), "/cm/..new/key", ""},
		"below a key":         {"..new/a/b ..data->..new", file("/cm/..old/a/b"), "/cm/..new/a/b", ""},
		"the directory":       {"..new/key ..data->..new", criutest.Regular(10, "/cm/..old", 0o40755), "/cm/..new", ""},
		"key that is gone":    {"..new/other ..data->..new", file("/cm/..old/key"), "", "/cm/..new/key is not there"},
		"of another mode":     {"..new/key/ ..data->..new", file("/cm/..old/key"), "", "/cm/..new/key has mode 040755 and had 0100644"},
		"not a volume of his": {"..new/key", file("/cm/..old/key"), "", "/cm/..old/key is not there"},
		"another name":        {"..new/key ..data->..new", file("/cm/old/key"), "", "/cm/old/key is not there"},
		"leads elsewhere":     {"sub/..new/key ..data->sub/..new", file("/cm/..old/key"), "", "/cm/..old/key is not there"},
		"leads out":           {"..data->/etc", file("/cm/..old/key"), "", "/cm/..old/key is not there"},
		"leads in circles":    {"..data->..data", file("/cm/..old/key"), "", "/cm/..old/key is not there"},
		"a key that leads":    {"..new/key->/etc/passwd ..data->..new", file("/cm/..old/key"), "", "/cm/..old/key is not there"},
		"still there":         {"..old/key ..new/key ..data->..new", criutest.Regular(10, "/cm/..old/key", 0o100644), "/cm/..old/key", ""},
		"watch":               {"..new/key ..data->..new", watchOf("/cm/..old/key", criutest.RootMount), "/cm/..new/key", ""},
		"watch of nothing":    {"..new/other ..data->..new", watchOf("/cm/..old/key", criutest.RootMount), "", "/cm/..new/key, which is watched, is not there"},
	} {
		t.Run(name, func(t *testing.T) {
			volume, root, report := t.TempDir(), t.TempDir(), &Report{}
			makeVolume(t, volume, c.make)
			spec := filesSpec(mounted("/cm", "bind", volume))
			images := stage(t, merged(criutest.Tasks(criutest.Task{PID: 1}), criutest.Files(c.file)), spec, root)
			err := inContainer(t, subjectOf(t, images, spec, Rules{}), root, report, (*container).paths, (*container).unchanged, func(c *container) error { return c.replaceFiles() })
			if c.says != "" {
				if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v, want one that says %q", err, c.says)
				}
				return
			}
			if err != nil || report.Total != 0 {
				t.Fatalf("%v, %v", err, report.Err())
			}
			now := c.file
			if data := report.Replaced[filesImage]; data != nil {
				written := subjectOf(t, map[string]string{filesImage: string(data)}, spec, Rules{})
				all, err := criu.Entries[*fdinfo.FileEntry](written.Images, filesImage, "FILES")
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range all {
					if f.GetId() == c.file.GetId() {
						now = f
					}
				}
			}
			if r := now.GetReg(); r != nil && (r.GetName() != c.want || r.GetName() != c.file.GetReg().GetName() && r.Size != nil) {
				t.Errorf("got %v, want %s", r, c.want)
			}
			if r := now.GetIfy(); r != nil && r.GetWd()[0].GetFHandle().GetPath() != c.want {
				t.Errorf("got %v, want %s", r, c.want)
			}
		})
	}
}

// makeVolume makes files, directories and links.
func makeVolume(t *testing.T, dir, names string) {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(names) {
		name, target, isLink := strings.Cut(name, "->")
		file := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		switch {
		case err != nil:
		case isLink:
			err = os.Symlink(target, file)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(file, 0o755)
		default:
			err = os.WriteFile(file, []byte("content"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
