package verify

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// ownerPGRP is the kind of owner that is a process group, the last one (fcntl(2), F_OWNER_PGRP).
const ownerPGRP = 2

// openFlags refuses flags that change the file system when a file is opened. The kernel
// forgets them then (do_dentry_open), so no checkpoint has them.
func (o *openFiles) openFlags(f *openFile) {
	const changes = unix.O_CREAT | unix.O_EXCL | unix.O_TRUNC | unix.O_NOCTTY | unix.O_TMPFILE&^unix.O_DIRECTORY
	if f.flags&changes != 0 {
		o.refuse(Finding{Check: "files", Object: f.String(), Field: "flags", Found: fmt.Sprintf("%#x", f.flags),
			Allowed: "none that create or truncate a file"})
	}
}

// owner checks to whom signals about a file go (fcntl(2), F_SETOWN). CRIU takes on the user who
// is to have asked for them, whose rights to signal count (criu/files.c, restore_fown).
func (o *openFiles) owner(f *openFile) error {
	e := f.owner
	if e == nil || e.GetPid() == 0 {
		return nil
	}
	if e.GetSignum() > 64 || e.GetPidType() > ownerPGRP {
		return malformed(filesImage, "file %d: its owner is %v", f.GetId(), e)
	}
	known := o.knowsPID(uint64(e.GetPid()))
	if e.GetPidType() == ownerPGRP {
		known = slices.ContainsFunc(o.processes, func(p *criu.Process) bool { return p.GetPgid() == e.GetPid() })
	}
	if !known {
		o.refuse(Finding{Check: "files", Object: f.String(), Field: "owner", Found: fmt.Sprintf("process %d", e.GetPid()), Allowed: "a process of the checkpoint"})
	}
	for _, uid := range []uint32{e.GetUid(), e.GetEuid()} {
		if !o.mayBe(uid) {
			o.refuse(Finding{Check: "files", Object: f.String(), Field: "owner's user", Found: fmt.Sprint(uid), Allowed: "a user whom a process of the checkpoint has"})
			break
		}
	}
	return nil
}

// mayBe says whether a process of the container could have been this user.
func (o *openFiles) mayBe(uid uint32) bool {
	if uid == o.spec.Process.User.UID || o.could("CAP_SETUID") || o.could("CAP_KILL") {
		return true
	}
	for _, p := range o.processes {
		for _, tid := range p.GetThreads() {
			core := p.Core
			if tid != p.GetPid() {
				core = p.Others[tid]
			}
			c := core.GetThreadCore().GetCreds()
			if c != nil && slices.Contains([]uint32{c.GetUid(), c.GetEuid(), c.GetSuid(), c.GetFsuid()}, uid) {
				return true
			}
		}
	}
	return false
}
