package verify

import (
	"fmt"
	"io/fs"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	criu_fs "github.com/checkpoint-restore/go-criu/v7/crit/images/fs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// descriptors are the open files of a process, by the number of the descriptor.
type descriptors map[uint32]*openFile

// readDescriptors reads the descriptor tables, of which processes may have one in common.
func (o *openFiles) readDescriptors() error {
	byTable := map[uint32]descriptors{}
	for _, p := range o.processes {
		if p.Dead() {
			continue
		}
		ids, err := o.images.IDs(p.GetPid())
		if err != nil {
			return err
		}
		id := ids.GetFilesId()
		if byTable[id] == nil {
			if byTable[id], err = o.readTable(fmt.Sprintf("fdinfo-%d.img", id)); err != nil {
				return err
			}
		}
		o.tables[p.GetPid()] = byTable[id]
	}
	return nil
}

func (o *openFiles) readTable(image string) (descriptors, error) {
	entries, err := criu.Entries[*fdinfo.FdinfoEntry](o.images, image, "FDINFO")
	if err != nil {
		return nil, err
	}
	table, waiting := descriptors{}, map[*openFile]bool{}
	for _, e := range entries {
		kind, err := fileType(e, 3)
		if err != nil {
			return nil, malformed(image, "descriptor %d: %v", e.GetFd(), err)
		}
		f := o.byID[e.GetId()]
		switch {
		case f == nil || f.kind != kind:
			return nil, malformed(image, "descriptor %d: there is no file %d of its type in %s", e.GetFd(), e.GetId(), filesImage)
		case table[e.GetFd()] != nil:
			return nil, malformed(image, "there are two descriptors %d", e.GetFd())
		case e.GetFlags()&^unix.FD_CLOEXEC != 0:
			return nil, malformed(image, "descriptor %d has flags %#x", e.GetFd(), e.GetFlags())
		}
		f.used, table[e.GetFd()] = true, f
		if f.kind == fdinfo.FdTypes_EVENTPOLL {
			waiting[f] = true
		}
		if err := o.step(1); err != nil {
			return nil, err
		}
	}
	for f := range waiting {
		o.holders[f] = append(o.holders[f], table)
	}
	return table, nil
}

// labels checks the labels with which CRIU makes sockets (criu/lsm.c, run_setsockcreatecon).
func (o *openFiles) labels() error {
	seen := map[uint32]bool{}
	for _, p := range o.processes {
		if p.Dead() {
			continue
		}
		ids, err := o.images.IDs(p.GetPid())
		if err != nil {
			return err
		}
		id := ids.GetFilesId()
		if seen[id] {
			continue
		}
		seen[id] = true
		entries, err := criu.Entries[*fdinfo.FdinfoEntry](o.images, fmt.Sprintf("fdinfo-%d.img", id), "FDINFO")
		if err != nil {
			return err
		}
		for _, e := range entries {
			if label := e.GetXattrSecuritySelinux(); label != "" && label != o.spec.Process.SelinuxLabel {
				o.refuse(Finding{Check: "files", Object: o.byID[e.GetId()].String(), Field: "SELinux label", Found: label, Allowed: o.spec.Process.SelinuxLabel})
			}
		}
	}
	return nil
}

// directories checks the root and the working directory of every process.
func (o *openFiles) directories() error {
	for _, p := range o.processes {
		if p.Dead() {
			continue
		}
		image := fmt.Sprintf("fs-%d.img", p.GetPid())
		e, err := criu.One[*criu_fs.FsEntry](o.images, image, "FS")
		if err != nil {
			return err
		}
		for _, id := range []uint32{e.GetCwdId(), e.GetRootId()} {
			f := o.byID[id]
			if f == nil || f.kind != fdinfo.FdTypes_REG || f.GetReg().GetMode()&unix.S_IFMT != unix.S_IFDIR {
				return malformed(image, "file %d of %s is no directory", id, filesImage)
			}
		}
		if e.GetUmask()&^uint32(fs.ModePerm) != 0 {
			return malformed(image, "the umask is %#o", e.GetUmask())
		}
		// A root of its own choice lets a process deceive programs that run as another user.
		if root := o.byID[e.GetRootId()].GetReg().GetName(); root != "/" && !o.could("CAP_SYS_CHROOT") {
			o.refuse(Finding{Check: "files", Object: fmt.Sprintf("process %d", p.GetPid()), Field: "root", Found: root,
				Allowed: "/, for lack of CAP_SYS_CHROOT"})
		}
	}
	return nil
}
