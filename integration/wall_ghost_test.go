package integration

import (
	"fmt"
	"slices"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	ghost_file "github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// firstForged is the first number that no file and no deleted file of the tests' checkpoints has.
const firstForged = 901

// forged is a file that nobody has open, and that CRIU makes all the same if it has been deleted.
type forged struct {
	name     string
	mode     uint32 // with the type
	uid, gid uint32
	content  string
	linkOf   string // of a link that CRIU removes: the name of the file that is opened in its place
}

// mountID returns the ID of the mount at a path.
func mountID(e *imageEditor, at string) int32 {
	e.t.Helper()
	all, err := criu.Entries[*mnt.MntEntry](e.Images(), e.Name("mountpoints-*.img"), "MNTS")
	if err != nil {
		e.t.Fatal(err)
	}
	return int32(mountAt(all, at).GetMntId())
}

// forge adds such files in a mount, in this order.
func forge(e *imageEditor, mount int32, files ...forged) {
	e.t.Helper()
	var remaps []*remap_file_path.RemapFilePathEntry
	const image, kind = "remap-fpath.img", "REMAP_FPATH"
	if !slices.Contains(e.Names(), image) {
		e.Add(image, kind)
	}
	stands := func(file, in uint32, how remap_file_path.RemapType) {
		remaps = append(remaps, &remap_file_path.RemapFilePathEntry{OrigId: &file, RemapId: &in, RemapType: &how})
	}
	e.Files(func(all []*fdinfo.FileEntry) []*fdinfo.FileEntry {
		i := slices.IndexFunc(all, func(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == "/" })
		next := uint32(firstForged)
		add := func(name string, mode uint32) uint32 {
			f := proto.Clone(all[i]).(*fdinfo.FileEntry)
			f.Id, f.Reg.Id = proto.Uint32(next), proto.Uint32(next)
			f.Reg.Name, f.Reg.MntId, f.Reg.Mode, f.Reg.Size = &name, &mount, &mode, nil
			all = append(all, f)
			next++
			return f.GetId()
		}
		for _, f := range files {
			id := add(f.name, f.mode)
			if f.linkOf != "" {
				stands(add(f.linkOf, f.mode), id, remap_file_path.RemapType_LINKED)
				continue
			}
			writeGhost(e, id, f)
			stands(id, id, remap_file_path.RemapType_GHOST)
		}
		return all
	})
	editEntries(e, image, kind, func(old []*remap_file_path.RemapFilePathEntry) []*remap_file_path.RemapFilePathEntry {
		return append(old, remaps...)
	})
}

// writeGhost writes the image of a deleted file.
func writeGhost(e *imageEditor, id uint32, f forged) {
	e.t.Helper()
	name := fmt.Sprintf("ghost-file-%x.img", id)
	e.Add(name, "GHOST_FILE", &ghost_file.GhostFileEntry{Uid: &f.uid, Gid: &f.gid, Mode: &f.mode})
	e.Write(name, append(e.Read(name), f.content...))
}

// deletedFile is a regular file of the restricted user.
func deletedFile(name string) forged {
	return forged{name: name, mode: unix.S_IFREG | 0o644, uid: appUser, gid: appUser, content: "of the checkpoint\n"}
}

// deletedDir is a directory of the restricted user.
func deletedDir(name string, perm uint32) forged {
	return forged{name: name, mode: unix.S_IFDIR | perm, uid: appUser, gid: appUser}
}

// ofRoot is the same, of root.
func (f forged) ofRoot() forged {
	f.uid, f.gid = 0, 0
	return f
}

// forged is a checkpoint with such files. mount says in which mount they are.
func (w *wall) forged(t *testing.T, k taken, mount string, files ...forged) taken {
	t.Helper()
	return k.with(editImages(t, k.archive, func(e *imageEditor) { forge(e, mountID(e, mount), files...) }))
}

// editNamed changes the one open file of a name.
func editNamed(e *imageEditor, name string, change func(*fdinfo.FileEntry)) {
	e.t.Helper()
	editFile(e, func(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == name }, change)
}
