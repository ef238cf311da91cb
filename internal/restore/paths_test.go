package restore

import (
	"reflect"
	"testing"

	ghost_file "github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
	"github.com/cri-restore/cri-restore/internal/guard"
)

// TestPathsOf reads of the images what CRIU opens, makes and removes by its path.
func TestPathsOf(t *testing.T) {
	const volume = 60
	in := func(r *regfile.RegFileEntry) { r.MntId = proto.Int32(volume) }
	remap := func(of, to uint32, kind remap_file_path.RemapType) proto.Message {
		return &remap_file_path.RemapFilePathEntry{OrigId: &of, RemapId: &to, RemapType: &kind}
	}
	const file, dir = unix.S_IFREG | 0o644, unix.S_IFDIR | 0o755
	images := criutest.Files(
		criutest.Regular(11, "/vol/open", file, in), criutest.Regular(12, "/vol/dir", dir, in),
		criutest.Regular(13, "/vol/gone", file, in), criutest.Regular(14, "/vol/linked", file, in),
		criutest.Regular(15, "/vol/link_remap.1", file, in), criutest.Regular(16, "/proc/9/stat", file),
		criutest.UnixSocket(17, 0, "/vol/socket"),
	)
	images["mountpoints-7.img"] = criutest.Image("MNTS", criutest.Bind(volume, criutest.RootMount, "./vol", "/vol", 0))
	images["remap-fpath.img"] = criutest.Image("REMAP_FPATH", remap(13, 0x1f, remap_file_path.RemapType_GHOST),
		remap(14, 15, remap_file_path.RemapType_LINKED), remap(16, 9, remap_file_path.RemapType_PROCFS))
	images["ghost-file-1f.img"] = criutest.WithData("GHOST_FILE", &ghost_file.GhostFileEntry{
		Uid: proto.Uint32(1000), Gid: proto.Uint32(2000), Mode: proto.Uint32(file),
	}, "content")
	path := t.TempDir()
	writeFiles(t, path, images)
	got, err := pathsOf(path)
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) guard.File { return guard.File{Mount: volume, At: "/vol", Name: name} }
	want := []guard.Deleted{
		{File: at("/vol/gone"), Mode: file, UID: 1000, GID: 2000},
		{File: at("/vol/linked"), Linked: true}, {File: at("/vol/link_remap.1"), Linked: true},
	}
	if !reflect.DeepEqual(got.Deleted, want) {
		t.Errorf("deleted: %+v, want %+v", got.Deleted, want)
	}
	var open []string
	for _, f := range got.Files {
		if f.Mount == volume {
			open = append(open, f.Name)
		}
	}
	if !reflect.DeepEqual(open, []string{"/vol/open"}) {
		t.Errorf("open in the volume: %q", open)
	}
	for name, change := range map[string]func(map[string]string){
		"no files":                func(m map[string]string) { delete(m, "files.img") },
		"no deleted file":         func(m map[string]string) { delete(m, "ghost-file-1f.img") },
		"nothing of it":           func(m map[string]string) { m["ghost-file-1f.img"] = criutest.Image("GHOST_FILE") },
		"mounts that are no such": func(m map[string]string) { m["mountpoints-7.img"] = "x" },
	} {
		broken, path := map[string]string{}, t.TempDir()
		for n, content := range images {
			broken[n] = content
		}
		change(broken)
		writeFiles(t, path, broken)
		if _, err := pathsOf(path); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
