package restore

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	ghost_file "github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/guard"
)

// pathsOf reads what the guard has to know of the paths in the images that CRIU is going to read. They are read as
// CRIU reads them: what is wrong with their form the verification has said.
func pathsOf(dir string) (p guard.Paths, err error) {
	images, err := criu.OpenImages(dir)
	if err != nil {
		return p, err
	}
	defer images.Close()
	remaps, err := remapsOf(images)
	if err != nil {
		return p, err
	}
	mounts, err := mountPointsOf(images)
	if err != nil {
		return p, err
	}
	files := map[uint32]guard.File{} // of which there are remaps
	err = images.Each("files.img", "FILES", func(_ int, entry []byte) error {
		e := &fdinfo.FileEntry{}
		if err := proto.Unmarshal(entry, e); err != nil {
			return err
		}
		r := e.GetReg()
		if r == nil {
			return nil
		}
		f := guard.File{Mount: r.GetMntId(), At: mounts[r.GetMntId()], Name: r.GetName()}
		switch {
		case remaps[e.GetId()]:
			files[e.GetId()] = f
		case r.GetMode()&unix.S_IFMT == unix.S_IFREG:
			p.Files = append(p.Files, f)
		}
		return nil
	})
	if err != nil {
		return p, err
	}
	p.Deleted, err = deletedOf(images, files)
	return p, err
}

const remapImage = "remap-fpath.img"

// remapsOf returns the IDs of the files for which CRIU opens something else, and of what it opens.
func remapsOf(images *criu.Images) (map[uint32]bool, error) {
	out := map[uint32]bool{}
	return out, eachRemap(images, func(r *remap_file_path.RemapFilePathEntry) error {
		out[r.GetOrigId()] = true
		if r.GetRemapType() == remap_file_path.RemapType_LINKED {
			out[r.GetRemapId()] = true
		}
		return nil
	})
}

// eachRemap calls f with those that are about files and not about processes.
func eachRemap(images *criu.Images, f func(*remap_file_path.RemapFilePathEntry) error) error {
	if _, ok := images.Size(remapImage); !ok {
		return nil
	}
	return images.Each(remapImage, "REMAP_FPATH", func(_ int, entry []byte) error {
		r := &remap_file_path.RemapFilePathEntry{}
		if err := proto.Unmarshal(entry, r); err != nil {
			return err
		}
		if r.GetRemapType() == remap_file_path.RemapType_PROCFS {
			return nil
		}
		return f(r)
	})
}

// mountPointsOf returns where the images say that mounts are, by their IDs.
func mountPointsOf(images *criu.Images) (map[int32]string, error) {
	out := map[int32]string{}
	for _, name := range images.Names() {
		if !strings.HasPrefix(name, "mountpoints-") {
			continue
		}
		err := images.Each(name, "MNTS", func(_ int, entry []byte) error {
			m := &mnt.MntEntry{}
			err := proto.Unmarshal(entry, m)
			out[int32(m.GetMntId())] = path.Clean("/" + m.GetMountpoint())
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// deletedOf returns what CRIU makes or removes of deleted files, each once.
func deletedOf(images *criu.Images, files map[uint32]guard.File) (out []guard.Deleted, err error) {
	err = eachRemap(images, func(r *remap_file_path.RemapFilePathEntry) error {
		file, ok := files[r.GetOrigId()]
		if !ok {
			return nil // it is of nothing
		}
		if r.GetRemapType() == remap_file_path.RemapType_LINKED {
			out = append(out, guard.Deleted{File: file, Linked: true}, guard.Deleted{File: files[r.GetRemapId()], Linked: true})
			return nil
		}
		e := &ghost_file.GhostFileEntry{}
		if err := first(images, fmt.Sprintf("ghost-file-%x.img", r.GetRemapId()), "GHOST_FILE", e); err != nil {
			return err
		}
		out = append(out, guard.Deleted{File: file, Mode: e.GetMode(), UID: e.GetUid(), GID: e.GetGid()})
		return nil
	})
	return out, err
}

// first reads the first entry of an image, without what follows.
func first(images *criu.Images, name, kind string, e proto.Message) error {
	enough, read := errors.New("the rest is not read"), false
	err := images.EachWithData(name, kind, func(_ int, entry []byte, _ io.Reader) error {
		if err := proto.Unmarshal(entry, e); err != nil {
			return err
		}
		read = true
		return enough
	})
	if read {
		return nil
	}
	return errors.Join(err, fmt.Errorf("CRIU image %s has no entry", name))
}
