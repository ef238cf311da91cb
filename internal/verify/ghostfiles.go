package verify

import (
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	ghost_file "github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

const remapImage = "remap-fpath.img"

// remap is a file that is not at its path any more, and what CRIU puts there while it opens it.
type remap struct {
	*remap_file_path.RemapFilePathEntry
	file *openFile
}

// readRemaps reads what stands in for files that have been deleted, or for processes that have ended.
func (o *openFiles) readRemaps() error {
	if _, ok := o.images.Size(remapImage); !ok {
		return nil
	}
	entries, err := criu.Entries[*remap_file_path.RemapFilePathEntry](o.images, remapImage, "REMAP_FPATH")
	if err != nil {
		return err
	}
	seen := map[uint32]bool{}
	for _, e := range entries {
		f := o.byID[e.GetOrigId()]
		switch {
		case f == nil || f.kind != fdinfo.FdTypes_REG:
			return malformed(remapImage, "there is no file %d in %s", e.GetOrigId(), filesImage)
		case seen[e.GetOrigId()]:
			return malformed(remapImage, "file %d is listed twice", e.GetOrigId())
		case e.RemapType == nil:
			return malformed(remapImage, "file %d: what stands in for it is of no type", e.GetOrigId())
		}
		seen[e.GetOrigId()] = true
		if pid := e.GetRemapId(); e.GetRemapType() == remap_file_path.RemapType_PROCFS {
			if pid == 0 || pid > maxPID {
				return malformed(remapImage, "file %d: it is no file of process %d", f.GetId(), pid)
			}
			o.remapped[pid] = true
		}
		o.remaps = append(o.remaps, &remap{e, f})
	}
	return nil
}

// maxPID is the largest that a kernel has (PID_MAX_LIMIT).
const maxPID = 4 << 20

// linkName is how CRIU names links of its own to files that had lost a name (criu/files-reg.c, create_link_remap).
var linkName = regexp.MustCompile(`^link_remap\.[0-9]+$`)

// ghosts checks what CRIU makes for files that have been deleted: it makes, links and
// deletes it with all rights of root. Where it does is for deleted.
func (o *openFiles) ghosts() error {
	types := map[uint32]uint32{}
	standsIn := map[uint32]bool{}
	for _, r := range o.remaps {
		standsIn[r.GetOrigId()] = true
	}
	for _, r := range o.remaps {
		if err := o.step(1); err != nil {
			return err
		}
		reg := r.file.GetReg()
		switch r.GetRemapType() {
		case remap_file_path.RemapType_PROCFS:
		case remap_file_path.RemapType_LINKED:
			link := o.byID[r.GetRemapId()]
			if link == nil || link.kind != fdinfo.FdTypes_REG || link.GetReg().GetMntId() != reg.GetMntId() {
				return malformed(remapImage, "file %d: there is no file %d in its mount", r.GetOrigId(), r.GetRemapId())
			}
			// CRIU makes what stands in for it, and deletes the link before that is taken away.
			if standsIn[r.GetRemapId()] {
				return malformed(remapImage, "file %d: what stands in for it, file %d, is deleted as well", r.GetOrigId(), r.GetRemapId())
			}
			// CRIU deletes it afterwards.
			if name := link.GetReg().GetName(); !linkName.MatchString(path.Base(name)) {
				o.refuse(Finding{Check: "files", Object: r.file.String(), Field: "link", Found: name, Allowed: "a link that CRIU has made"})
			}
		case remap_file_path.RemapType_GHOST:
			format, ok := types[r.GetRemapId()]
			if !ok {
				var err error
				if format, err = o.ghost(r); err != nil {
					return err
				}
				types[r.GetRemapId()] = format
			}
			if format != reg.GetMode()&unix.S_IFMT {
				return malformed(remapImage, "file %d: mode %s and what stands in for it are not of one type", r.GetOrigId(), octal(reg.GetMode()))
			}
			// Otherwise the link would be followed, from outside the container.
			if format == unix.S_IFLNK && r.file.flags&(unix.O_PATH|unix.O_NOFOLLOW) != unix.O_PATH|unix.O_NOFOLLOW {
				return malformed(remapImage, "file %d: it is a link that is followed", r.GetOrigId())
			}
		default:
			return malformed(remapImage, "file %d: what stands in for it is of unknown type %d", r.GetOrigId(), r.GetRemapType())
		}
	}
	return nil
}

func (r *remap) image() string { return fmt.Sprintf("ghost-file-%x.img", r.GetRemapId()) }

// ghost checks the image with a deleted file and returns its type.
func (o *openFiles) ghost(r *remap) (format uint32, err error) {
	image := r.image()
	e := &ghost_file.GhostFileEntry{}
	entries := 0
	err = o.images.EachWithData(image, "GHOST_FILE", func(i int, entry []byte, rest io.Reader) error {
		entries++
		if i > 0 {
			return chunk(e, entry, rest)
		}
		if err := criu.Decode(entry, e); err != nil {
			return err
		}
		if e.GetMode()&unix.S_IFMT != unix.S_IFREG || e.GetChunks() {
			return nil
		}
		_, err := io.Copy(io.Discard, rest)
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case entries == 0:
		return 0, malformed(image, "it has no entry")
	case e.GetMode()&^uint32(unix.S_IFMT|0o7777) != 0, (e.Atim == nil) != (e.Mtim == nil), e.GetChunks() && e.Size == nil:
		return 0, malformed(image, "it is not complete")
	}
	format = e.GetMode() & unix.S_IFMT
	refuse := func(field, allowed string) {
		o.refuse(Finding{Check: "files", Object: r.file.String(), Field: field, Found: "mode " + octal(e.GetMode()), Allowed: allowed, Always: true})
	}
	switch format {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFIFO:
	case unix.S_IFLNK:
		if t := e.GetSymlnkTarget(); t == "" || len(t) >= 4096 || strings.ContainsRune(t, 0) {
			return 0, malformed(image, "it is a link to nowhere")
		}
	default:
		refuse("deleted file", "no device: devices come from the pod, not from a checkpoint")
	}
	if e.GetMode()&(unix.S_ISUID|unix.S_ISGID) != 0 {
		refuse("deleted file", "no set-user-ID or set-group-ID: CRIU would make it for any user")
	}
	return format, nil
}

// chunk checks a piece of a deleted file with holes. CRIU would copy for ever if there were less of it (criu/files-reg.c, copy_chunk_to_file).
func chunk(e *ghost_file.GhostFileEntry, entry []byte, rest io.Reader) error {
	c := &ghost_file.GhostChunkEntry{}
	if err := criu.Decode(entry, c); err != nil {
		return err
	}
	size := e.GetSize()
	if !e.GetChunks() || size > 1<<62 || c.GetLen() > size || c.GetOff() > size-c.GetLen() {
		return errors.New("a piece is not within the file")
	}
	if _, err := io.CopyN(io.Discard, rest, int64(c.GetLen())); err != nil {
		return errors.New("it ends within a piece")
	}
	return nil
}
