package verify

import (
	"errors"
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	criu_fs "github.com/checkpoint-restore/go-criu/v7/crit/images/fs"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/rights"
	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// access checks that the container's own user could open the files that CRIU opens for its processes. CRIU opens them
// as root of the host (criu/files-reg.c, open_path), so nobody asks for the permissions of a file
// again. Mounts of the spec are looked at on the host.
//
// Whoever may override permissions, as root in an ordinary pod, may open everything, and nothing is looked at.
//
// The kernel judges, as it will have judged when the file was first opened, but now: what
// others change between this check and the restore is not seen. Files that are not there are for CRIU to complain of.
func (c *container) access() error {
	g, _, err := c.granted()
	if err != nil {
		return err
	}
	holder := g.holder()
	if holder == nil {
		return nil
	}
	u, err := rights.New(*holder)
	if err != nil {
		return err
	}
	defer u.Close()
	a := &accessCheck{
		container: c, uses: map[uint32]*uses{}, sent: map[uint32]bool{},
		paths: &paths{table: c.table, step: c.step, user: u, granted: g, searched: map[string]error{}},
	}
	for _, check := range []func() error{a.collect, a.regularFiles, a.watched, a.bound} {
		if err := check(); err != nil {
			return err
		}
	}
	return c.over
}

// accessCheck is one such check.
type accessCheck struct {
	*container
	paths *paths
	uses  map[uint32]*uses
	sent  map[uint32]bool // the entries with the paths of what is in messages
}

// uses are what CRIU opens a regular file for.
type uses struct {
	opened            [3 + 1]bool // by access mode
	named             bool        // it is opened by its name only
	entered, executed bool
	stands            *remap // what CRIU puts at its path first
	isLink            bool   // it stands in for another file
}

func (a *accessCheck) use(id uint32) *uses {
	if a.uses[id] == nil {
		a.uses[id] = &uses{}
	}
	return a.uses[id]
}

func (u *uses) open(flags uint32) {
	if flags&unix.O_PATH != 0 {
		u.named = true
	} else {
		u.opened[flags&unix.O_ACCMODE] = true
	}
}

// collect finds out what CRIU opens files for.
func (a *accessCheck) collect() error {
	for _, p := range a.processes {
		if p.Dead() {
			continue
		}
		e, err := criu.One[*criu_fs.FsEntry](a.images, fmt.Sprintf("fs-%d.img", p.GetPid()), "FS")
		if err != nil {
			return err
		}
		a.use(e.GetCwdId()).entered, a.use(e.GetRootId()).entered = true, true
		m, err := criu.One[*mm.MmEntry](a.images, fmt.Sprintf("mm-%d.img", p.GetPid()), "MM")
		if err != nil {
			return err
		}
		a.use(m.GetExeFileId()).executed = true
		for _, v := range m.GetVmas() {
			if v.GetStatus()&(areaFilePrivate|areaFileShared) != 0 && v.GetStatus()&areaMemfd == 0 {
				a.use(uint32(v.GetShmid())).open(fileFlags(v))
			}
		}
	}
	for _, r := range a.remaps {
		// Of a process that has ended the files are procfs'.
		if r.GetRemapType() == remap_file_path.RemapType_PROCFS {
			continue
		}
		a.use(r.GetOrigId()).stands = r
		if r.GetRemapType() == remap_file_path.RemapType_LINKED {
			a.use(r.GetRemapId()).isLink = true
		}
	}
	for _, f := range a.files {
		switch f.kind {
		case fdinfo.FdTypes_FIFO:
			if reg := a.byID[f.GetFifo().GetRegfId()]; reg != nil {
				a.use(reg.GetId()).open(reg.flags)
				a.sent[reg.GetId()] = a.sent[reg.GetId()] || f.sent
			}
		case fdinfo.FdTypes_REG:
			// Whatever an entry is there for that nothing known refers to.
			if f.used || a.uses[f.GetId()] == nil {
				a.use(f.GetId()).open(f.flags)
			}
			a.sent[f.GetId()] = a.sent[f.GetId()] || f.sent
		}
	}
	return nil
}

// note records that a user may not do something, unless there is no reason why.
func (a *accessCheck) note(f *openFile, name, what string, why error) {
	if why == nil || errors.Is(why, place.ErrAbsent) {
		return
	}
	a.report.Unpermitted = true
	a.refuse(Finding{
		Check: "files", Object: f.String(), Field: "access", Found: what + " " + name,
		Allowed: fmt.Sprintf("what user %d of the pod may open: %v", a.paths.uid, why),
		Remedy:  "give the pod's user or groups access to it, or take the checkpoint while the container does not have it open",
	})
}

// regularFiles checks what has an entry with a path: open files, named pipes, mappings, programs and directories.
func (a *accessCheck) regularFiles() error {
	for _, f := range a.files {
		u := a.uses[f.GetId()]
		at, ok := a.places[f]
		if f.kind != fdinfo.FdTypes_REG || u == nil || !ok {
			continue
		}
		name := at.Path
		if u.isLink {
			a.note(f, name, "removing", a.paths.mayReplace(name))
		}
		if u.stands != nil {
			// CRIU makes the path and removes it again (criu/files-reg.c, rfi_remap), and moves away for that time what is there. Of a deleted
			// file the content is the checkpoint's; what has still a link that CRIU made when it took the checkpoint is opened by that.
			a.note(f, name, "making", a.paths.mayReplace(name))
			at, ok = a.places[a.byID[u.stands.GetRemapId()]]
			if u.stands.GetRemapType() != remap_file_path.RemapType_LINKED || !ok {
				continue
			}
			name = at.Path
		}
		a.openings(f, name, u)
		if a.sent[f.GetId()] && at.Mount.Kind == place.Volume {
			a.report.Unpermitted = true
			a.refuse(Finding{
				Check: "files", Object: f.String(), Field: "access", Found: name + ", in a message that nobody has received",
				Allowed: "files of volumes that are open: others may exchange them, and nobody sees what is in a message",
				Remedy:  "take the checkpoint when it was received",
			})
		}
		if a.over != nil {
			return a.over
		}
	}
	return nil
}

// openings checks all ways in which CRIU opens a file. Nothing is asked of procfs and its like: see kernelFile.
func (a *accessCheck) openings(f *openFile, name string, u *uses) {
	read, write := u.opened[unix.O_RDONLY], u.opened[unix.O_WRONLY]
	if u.opened[unix.O_RDWR] || u.opened[3] {
		a.note(f, name, "open for reading and writing", a.paths.may(name, unix.R_OK, unix.W_OK))
		read, write = false, false
	}
	if read {
		a.note(f, name, "open for reading", a.paths.may(name, unix.R_OK))
	}
	if write {
		a.note(f, name, "open for writing", a.paths.may(name, unix.W_OK))
	}
	if u.named {
		a.note(f, name, "open by its name", a.paths.may(name))
	}
	if u.entered {
		a.note(f, name, "a process in", a.paths.may(name, unix.X_OK))
	}
	// A program need only be allowed to be executed.
	if u.executed && a.paths.may(name, unix.X_OK) != nil {
		a.note(f, name, "executing", a.paths.may(name, unix.R_OK))
	}
}

// watched checks paths that are watched, which takes the right to read them (inotify(7)).
func (a *accessCheck) watched() error {
	for _, f := range a.files {
		for _, w := range a.entry(f).GetIfy().GetWd() {
			name := w.GetFHandle().GetPath()
			if name == "" {
				continue // refused: see inotify
			}
			a.note(f, name, "watching", a.paths.may(name, unix.R_OK))
		}
	}
	return nil
}

// bound checks the sockets that are bound to a path: CRIU removes what is there, then makes them. One that was deleted it makes
// beside that, and removes what has the name (criu/sk-unix.c, bind_on_deleted).
func (a *accessCheck) bound() error {
	for _, f := range a.files {
		at, ok := a.places[f]
		if f.kind != fdinfo.FdTypes_UNIXSK || !ok {
			continue
		}
		a.note(f, at.Path, "making", a.paths.mayReplace(at.Path))
		if f.GetUsk().GetDeleted() {
			beside := at.Path + ".criu-sk-ghost"
			a.note(f, beside, "making", a.paths.mayReplace(beside))
		}
		if a.over != nil {
			return a.over
		}
	}
	return nil
}
