package verify

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"

	ghost_file "github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// deadProcesses checks the files of processes that CRIU makes only to open a file of theirs in procfs
// (criu/files-reg.c, collect_remap_dead_process).
func (c *container) deadProcesses() error {
	for _, r := range c.remaps {
		p, ok := c.places[r.file]
		if r.GetRemapType() != remap_file_path.RemapType_PROCFS || !ok {
			continue
		}
		if p.Mount.Kind != place.Proc || !place.Below("/"+strconv.Itoa(int(r.GetRemapId())), "/"+p.InFS()) {
			return malformed(remapImage, "file %d: it is no file of process %d", r.GetOrigId(), r.GetRemapId())
		}
	}
	return nil
}

// deleted checks where CRIU makes what has been deleted, and to whom that belongs. It makes a read-only mount writable for it
// (criu/mount.c, try_remount_writable), the directories on the way to it (files-reg.c, make_parent_dirs_if_need), and a
// directory at its very path, of which it then changes owner and mode, even if there is something already (criu/util.c, mkdirpat).
func (c *container) deleted() error {
	if len(c.remaps) == 0 {
		return nil
	}
	may := c.owners()
	for _, r := range c.remaps {
		p, ok := c.places[r.file]
		if r.GetRemapType() == remap_file_path.RemapType_PROCFS || !ok {
			continue // not there, or refused
		}
		if err := c.step(1); err != nil {
			return err
		}
		// Nothing of this is seen afterwards: what CRIU has made is gone, what it has changed stays so. A node that only audits
		// refuses it as well, unless a link would have to be followed.
		refuse := func(field, found, allowed string) {
			c.refuse(Finding{Check: "files", Object: r.file.String(), Field: field, Found: found, Allowed: allowed, Always: !p.Covered(),
				Remedy: "take the checkpoint while the container does not have it open"})
		}
		kind := p.Mount.Kind
		switch {
		case p.Covered() || kind != place.Root && kind != place.Volume && kind != place.Tmpfs:
			refuse("mount", "a deleted file in the mount at "+p.Mount.At, "deleted files in the root file system, in volumes and in memory")
			continue
		case p.Mount.ReadOnly:
			refuse("mount", "a deleted file in a read-only mount", "deleted files where the pod may write")
			continue
		case p.Rest == "":
			refuse("mount", "a deleted mount point", "deleted files in a mount")
			continue
		case r.GetRemapType() != remap_file_path.RemapType_GHOST:
			continue
		}
		e, err := c.firstOfGhost(r)
		if err != nil {
			return err
		}
		if e.GetMode()&unix.S_IFMT == unix.S_IFDIR && !c.isFree(p) {
			refuse("deleted directory", "one where something is now", "deleted directories where nothing is")
			continue
		}
		if e.GetMode()&unix.S_IFMT == unix.S_IFDIR && kind == place.Volume {
			// And in the entry of the open file, with which CRIU compares what it has opened (criu/files-reg.c, validate_file).
			c.editFile(r.file).GetReg().Mode = proto.Uint32(closedMode)
			if err := c.closeGhost(r, e); err != nil {
				return err
			}
			continue
		}
		if uid := e.GetUid(); !may.anyUser && !may.users[uid] {
			refuse("owner", fmt.Sprintf("user %d", uid), "a user whom a process of the checkpoint has")
		}
		if gid := e.GetGid(); !may.anyGroup && !may.groups[gid] && !c.inherits(p, gid) {
			refuse("owner", fmt.Sprintf("group %d", gid), "a group that a process of the checkpoint has, or that of the directory where it gives it to all files")
		}
	}
	return nil
}

// closedMode is that of a deleted directory in a volume.
const closedMode = unix.S_IFDIR | 0o700

// closeGhost gives a deleted directory in a volume to root, and nobody else a right to it. CRIU takes a directory that has appeared at its path
// since for the one that it is to make: who can put one there, or a file, which is somebody else's, must not gain by that.
func (c *container) closeGhost(r *remap, e *ghost_file.GhostFileEntry) error {
	e = proto.Clone(e).(*ghost_file.GhostFileEntry)
	e.Mode, e.Uid, e.Gid = proto.Uint32(closedMode), proto.Uint32(0), proto.Uint32(0)
	return c.replace(r.image(), "GHOST_FILE", e)
}

// firstOfGhost reads what an image says of a deleted file, without the file.
func (c *container) firstOfGhost(r *remap) (*ghost_file.GhostFileEntry, error) {
	e := &ghost_file.GhostFileEntry{}
	read := false
	enough := errors.New("the rest is not read")
	err := c.images.EachWithData(r.image(), "GHOST_FILE", func(_ int, entry []byte, _ io.Reader) error {
		if err := criu.Decode(entry, e); err != nil {
			return err
		}
		read = true
		return enough
	})
	if !read {
		return nil, errors.Join(err, malformed(r.image(), "it has no entry"))
	}
	return e, nil
}

// isFree says whether nothing is at a path, nor will be when CRIU has mounted everything.
func (c *container) isFree(p place.Place) bool {
	if p.Mount.Contents != nil {
		return !p.Mount.Contents.Names[p.Rest]
	}
	if p.Mount.Base == nil {
		return false
	}
	_, err := p.Stat()
	return errors.Is(err, place.ErrAbsent)
}

// owners are whom files of the container's processes may belong to.
type owners struct {
	users, groups     map[uint32]bool
	anyUser, anyGroup bool
}

// owners returns to whom a process of the checkpoint could have given a file that it has made. Its credentials have been
// compared with the pod's.
func (c *container) owners() owners {
	user := c.spec.Process.User
	out := owners{
		users: map[uint32]bool{user.UID: true}, groups: map[uint32]bool{user.GID: true},
		anyUser: c.could("CAP_CHOWN") || c.could("CAP_SETUID"), anyGroup: c.could("CAP_CHOWN") || c.could("CAP_SETGID"),
	}
	add := func(set map[uint32]bool, ids ...uint32) {
		for _, id := range ids {
			set[id] = true
		}
	}
	add(out.groups, user.AdditionalGids...)
	for _, p := range c.processes {
		for _, t := range threads(p) {
			if e := t.core.GetThreadCore().GetCreds(); e != nil {
				add(out.users, e.GetUid(), e.GetEuid(), e.GetSuid(), e.GetFsuid())
				add(out.groups, e.GetGid(), e.GetEgid(), e.GetSgid(), e.GetFsgid())
				add(out.groups, e.GetGroups()...)
			}
		}
	}
	return out
}

// inherits says whether a file gets this group from the directory that it is in (inode(7), S_ISGID), or from the nearest one that is there.
func (c *container) inherits(p place.Place, gid uint32) bool {
	at, err := c.table.Nearest(path.Dir(p.Path))
	if err != nil || at.Mount != p.Mount {
		return false
	}
	st, err := at.Stat()
	return err == nil && st.Mode&unix.S_ISGID != 0 && st.Gid == gid
}
