package verify

import (
	"maps"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	ghost_file "github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	criu_time "github.com/checkpoint-restore/go-criu/v7/crit/images/time"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

const (
	remapLink  = remap_file_path.RemapType_LINKED
	remapGhost = remap_file_path.RemapType_GHOST
	remapProc  = remap_file_path.RemapType_PROCFS
)

func remaps(file, by uint32, kind remap_file_path.RemapType) map[string]string {
	e := &remap_file_path.RemapFilePathEntry{OrigId: &file, RemapId: &by, RemapType: &kind}
	return map[string]string{remapImage: criutest.Image("REMAP_FPATH", e)}
}

// ghostOf is a deleted file of a mode, and its content.
func ghostOf(mode uint32, change func(*ghost_file.GhostFileEntry), content ...any) map[string]string {
	at := &criu_time.Timeval{TvSec: proto.Uint64(1), TvUsec: proto.Uint64(0)}
	e := &ghost_file.GhostFileEntry{Uid: proto.Uint32(0), Gid: proto.Uint32(0), Mode: &mode, Dev: proto.Uint32(50), Ino: proto.Uint64(7), Atim: at, Mtim: at}
	if change != nil {
		change(e)
	}
	images := remaps(9, 0x1a, remapGhost)
	images["ghost-file-1a.img"] = criutest.WithData("GHOST_FILE", append([]any{e}, content...)...)
	return images
}

func piece(off, length uint64) *ghost_file.GhostChunkEntry {
	return &ghost_file.GhostChunkEntry{Off: &off, Len: &length}
}

func TestGhostFiles(t *testing.T) {
	deleted := func(mode uint32, flags uint32) []*fdinfo.FileEntry {
		return regularAt("/data/gone", mode, criutest.RootMount, flags)
	}
	file := deleted(0o100644, unix.O_RDWR)
	sparse := func(e *ghost_file.GhostFileEntry) { e.Chunks, e.Size = proto.Bool(true), proto.Uint64(100) }
	link := func(e *ghost_file.GhostFileEntry) { e.SymlnkTarget = proto.String("/etc") }
	linked := func(name string) []*fdinfo.FileEntry {
		return append(deleted(0o100644, 0), criutest.Regular(10, name, 0o100644))
	}
	without := func(images map[string]string, name string) map[string]string {
		images = maps.Clone(images)
		delete(images, name)
		return images
	}
	testFiles(t, map[string]filesCase{
		"file":                   {files: file, images: ghostOf(0o100644, nil, "content")},
		"empty":                  {files: file, images: ghostOf(0o100644, nil)},
		"with holes":             {files: file, images: ghostOf(0o100644, sparse, piece(0, 4), "data", piece(96, 4), "data")},
		"only a hole":            {files: file, images: ghostOf(0o100644, sparse)},
		"directory":              {files: deleted(0o40755, 0), images: ghostOf(0o41755, nil)},
		"directory, set-ID":      {files: deleted(0o40755, 0), images: ghostOf(0o44755, nil), finds: "set-user-ID"},
		"directory, its group's": {files: deleted(0o40755, 0), images: ghostOf(0o42755, nil), finds: "set-group-ID"},
		"named pipe":             {files: deleted(0o10600, 0), images: ghostOf(0o10600, nil)},
		"link":                   {files: deleted(0o120777, unix.O_PATH|unix.O_NOFOLLOW), images: ghostOf(0o120777, link)},
		"link, followed":         {files: deleted(0o120777, unix.O_PATH), images: ghostOf(0o120777, link), invalid: "followed"},
		"link to nowhere":        {files: deleted(0o120777, unix.O_PATH|unix.O_NOFOLLOW), images: ghostOf(0o120777, nil), invalid: "to nowhere"},
		"character device":       {files: deleted(0o20666, 0), images: ghostOf(0o20666, func(e *ghost_file.GhostFileEntry) { e.Rdev = proto.Uint32(0x101) }), finds: "no device"},
		"block device":           {files: deleted(0o60666, 0), images: ghostOf(0o60666, func(e *ghost_file.GhostFileEntry) { e.Rdev = proto.Uint32(0xfe00) }), finds: "no device"},
		"socket":                 {files: deleted(0o140666, 0), images: ghostOf(0o140666, nil), finds: "no device"},
		"set-user-ID":            {files: file, images: ghostOf(0o104755, nil), finds: "set-user-ID"},
		"set-group-ID":           {files: file, images: ghostOf(0o102755, nil), finds: "set-user-ID"},
		"another type":           {files: file, images: ghostOf(0o10600, nil), invalid: "not of one type"},
		"half a time":            {files: file, images: ghostOf(0o100644, func(e *ghost_file.GhostFileEntry) { e.Mtim = nil }), invalid: "not complete"},
		"no size":                {files: file, images: ghostOf(0o100644, func(e *ghost_file.GhostFileEntry) { e.Chunks = proto.Bool(true) }), invalid: "not complete"},
		"beyond the end":         {files: file, images: ghostOf(0o100644, sparse, piece(98, 4), "data"), invalid: "not within"},
		"overflow":               {files: file, images: ghostOf(0o100644, sparse, piece(1<<64-2, 4), "data"), invalid: "not within"},
		"a piece is missing":     {files: file, images: ghostOf(0o100644, sparse, piece(0, 90), "data"), invalid: "within a piece"},
		"no image":               {files: file, images: without(ghostOf(0o100644, nil), "ghost-file-1a.img"), invalid: "ghost-file-1a.img"},
		"of no file":             {images: ghostOf(0o100644, nil), invalid: "there is no file 9"},
		"of no type": {files: file, images: map[string]string{remapImage: criutest.Image("REMAP_FPATH", &remap_file_path.RemapFilePathEntry{
			OrigId: proto.Uint32(9), RemapId: proto.Uint32(1 << 31)})}, invalid: "of no type"},
		"of unknown type": {files: file, images: remaps(9, 1, 3), invalid: "3"},
		"read-only root":  {files: file, images: ghostOf(0o100644, nil), spec: func(s *specs.Spec) { s.Root.Readonly = true }, finds: "read-only mount"},
		"read-only volume": {files: file, images: ghostOf(0o100644, nil), finds: "read-only mount",
			spec: func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Options: []string{"rbind", "ro"}})
			}},
		"writable volume": {files: file, images: ghostOf(0o100644, nil), spec: func(s *specs.Spec) {
			s.Root.Readonly = true
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Options: []string{"rbind", "rw"}})
		}},
		"CRIU's link":     {files: linked("/data/link_remap.7"), images: remaps(9, 10, remapLink)},
		"any file":        {files: linked("/data/passwords"), images: remaps(9, 10, remapLink), finds: "a link that CRIU has made"},
		"link of none":    {files: file, images: remaps(9, 10, remapLink), invalid: "there is no file 10"},
		"link, read-only": {files: linked("/data/link_remap.7"), images: remaps(9, 10, remapLink), spec: func(s *specs.Spec) { s.Root.Readonly = true }, finds: "read-only mount"},
	})
	twice := &remap_file_path.RemapFilePathEntry{OrigId: proto.Uint32(9), RemapId: proto.Uint32(26), RemapType: remapGhost.Enum()}
	images := ghostOf(0o100644, nil)
	images[remapImage] = criutest.Image("REMAP_FPATH", twice, twice)
	testFiles(t, map[string]filesCase{"twice": {files: file, images: images, invalid: "listed twice"}})
}
