package verify

import (
	"errors"
	"path"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// paths checks where the files are that CRIU opens by their paths, and notes it.
//
// CRIU opens files as root of the host, partly from outside the container and relative to one of its mounts, while it holds descriptors
// of the host's files (its image directory, procfs). A symbolic link on the way would lead it out: an absolute one when it
// makes a deleted file anew (criu/files-reg.c, create_ghost), one to /proc/self/fd at any time. The paths that
// CRIU has dumped are the kernel's, which has resolved every link, and are in the mount that the kernel says.
func (c *container) paths() error {
	for _, f := range c.files {
		if err := c.step(1 + len(f.GetReg().GetName())/64); err != nil {
			return err
		}
		switch f.kind {
		case fdinfo.FdTypes_REG:
			r := f.GetReg()
			if r.GetExt() {
				continue // refused
			}
			isLink := r.GetMode()&unix.S_IFMT == unix.S_IFLNK && f.flags&unix.O_NOFOLLOW != 0
			p, ok, err := c.locate(f, r.GetName(), r.MntId, isLink)
			if err != nil {
				return err
			}
			if now, renewed := c.renewed(p); ok && renewed {
				// The content is the new pod's, and so is the size.
				e := c.editFile(f).GetReg()
				e.Name, e.Size = proto.String(now.Path), nil
				p = now
			}
			if ok {
				c.places[f] = p
				c.kernelFile(f, p, r.GetMode(), f.flags)
			}
		case fdinfo.FdTypes_INOTIFY:
			for i, w := range f.GetIfy().GetWd() {
				h := w.GetFHandle()
				if h.GetPath() == "" {
					continue // refused: see inotify
				}
				var mount *int32
				if h.MntId != nil {
					id := int32(h.GetMntId())
					mount = &id
				}
				p, ok, err := c.locate(f, h.GetPath(), mount, false)
				if err != nil {
					return err
				}
				if now, renewed := c.renewed(p); ok && renewed {
					c.editFile(f).GetIfy().GetWd()[i].GetFHandle().Path = proto.String(now.Path)
					p = now
				}
				if ok {
					// The watch is of the name only.
					c.kernelFile(f, p, unix.S_IFREG, unix.O_PATH)
				}
			}
		}
	}
	return nil
}

// locate says where a path is that an image has, and refuses one that is not where it is said to be, or that leads through a symbolic
// link. Only the file itself may be one. It is not ok if it was refused.
func (c *container) locate(f *openFile, name string, mount *int32, itself bool) (p place.Place, ok bool, err error) {
	if err := cleanName(f, name); err != nil {
		return p, false, err
	}
	if mount == nil {
		return p, false, malformed(filesImage, "file %d: %v", f.GetId(), place.ErrNoMount)
	}
	p, err = c.table.Locate(*mount, name)
	switch {
	case errors.Is(err, place.ErrHidden) && place.Below(c.table.ByID(*mount).At, name):
		c.refuse(Finding{Check: "files", Object: f.String(), Field: "mount", Found: err.Error(), Allowed: "the innermost mount of the path"})
		return p, false, nil
	case errors.Is(err, place.ErrHidden):
		return p, false, malformed(filesImage, "file %d: path %.200q is not in the mount at %.200q", f.GetId(), name, c.table.ByID(*mount).At)
	case err != nil:
		return p, false, malformed(filesImage, "file %d: path %.200q: %v", f.GetId(), name, err)
	}
	if link := c.table.Link(name); link != "" && (!itself || link != name) {
		c.refuse(Finding{Check: "files", Object: f.String(), Field: "name", Found: "a path through the symbolic link " + link, Allowed: "paths of directories and files",
			Remedy: "do not replace what was a directory or a file by a link"})
		return p, false, nil
	}
	return p, true, nil
}

// sockets checks the paths to which sockets are bound. These are as the process has written them, and CRIU looks for them
// below the root of the container (criu/sk-unix.c, prep_unix_sk_cwd): they may lead through links, but not out.
func (c *container) sockets() error {
	directories := map[string]string{} // where they are; many sockets may be in one behind forty long links
	for _, f := range c.files {
		name := socketPath(f)
		if name == "" {
			continue
		}
		end, err := c.resolve(name, directories)
		if c.over != nil {
			return c.over
		}
		p := c.table.At(end)
		if err != nil || p.FSType() == unix.PROC_SUPER_MAGIC || inProc(end) >= 0 {
			c.refuse(Finding{Check: "files", Object: f.String(), Field: "name", Found: "a path to " + end, Allowed: "a path outside procfs"})
			continue
		}
		if id := f.GetUsk().GetMntId(); f.GetUsk().MntId != nil && id >= 0 && c.table.ByID(id) == nil {
			return malformed(filesImage, "socket %d: %v", f.GetId(), place.ErrNoMount)
		}
		c.places[f] = p
	}
	return nil
}

// resolve is place.Table's, which looks for each directory once. (A path may lead through forty links more than in Linux, which then
// does not find what is judged here.)
func (c *container) resolve(name string, directories map[string]string) (string, error) {
	dir, base := path.Split(name)
	if base == "" || base == "." || base == ".." {
		return c.table.Resolve(name)
	}
	end, ok := directories[dir]
	if !ok {
		var err error
		if end, err = c.table.Resolve(dir); err != nil {
			return end, err
		}
		directories[dir] = end
	}
	return c.table.Resolve(end + "/" + base)
}

// socketPath returns the path to which a socket is bound, "" if there is none.
func socketPath(f *openFile) string {
	name := string(f.GetUsk().GetName())
	if name == "" || name[0] == 0 {
		return ""
	}
	return f.GetUsk().GetNameDir() + "/" + strings.TrimRight(name, "\x00")
}
