package verify

import (
	"fmt"
	"path"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"

	"github.com/cri-restore/cri-restore/internal/criu"
)

const filesImage = "files.img"

// openFiles refuses open files that reach outside the container. CRIU opens, creates and
// connects every one of them as host root, in the container's namespaces, by
// what the images say.
func (v *verifier) openFiles() error {
	o := &openFiles{verifier: v, mounts: map[int32]string{}, tables: map[uint32]descriptors{}, remapped: map[uint32]bool{}}
	granted, _, err := v.granted()
	if err != nil {
		return err
	}
	o.reachable = granted.reachable
	for _, read := range []func() error{o.readFiles, o.readMounts, o.readNamespaces, o.readDescriptors, o.readRemaps} {
		if err := read(); err != nil {
			return err
		}
	}
	for _, f := range o.files {
		if err := o.file(f); err != nil {
			return err
		}
	}
	for _, check := range []func() error{o.directories, o.deadProcesses, o.ghosts, o.unixPeers, o.socketQueues, o.pipeData, o.memoryFiles, o.terminals, o.locks, o.unused, o.links} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// openFiles is the comparison of the open files.
type openFiles struct {
	*verifier
	reachable capabilities // those that a process which the spec starts could come to have
	files     []*openFile
	byID      map[uint32]*openFile
	mounts    map[int32]string // mount points, by the ID of the mount
	netNS     uint32
	// mountEntries are what mounts was made of.
	mountEntries []*mnt.MntEntry
	// tables are the descriptors of the living processes, by their PID.
	tables   map[uint32]descriptors
	remaps   []*remap
	remapped map[uint32]bool // the PIDs of dead processes that CRIU makes for a time
}

// could says whether a process of the container could have come to a capability.
func (o *openFiles) could(capability string) bool {
	return o.reachable.has(named([]string{capability}))
}

// file checks one entry of files.img by itself.
func (o *openFiles) file(f *openFile) error {
	o.openFlags(f)
	if err := o.owner(f); err != nil {
		return err
	}
	switch f.kind {
	case fdinfo.FdTypes_REG:
		return o.regular(f)
	case fdinfo.FdTypes_FIFO:
		return o.fifo(f)
	case fdinfo.FdTypes_INETSK:
		return o.inetSocket(f)
	case fdinfo.FdTypes_UNIXSK:
		return o.unixSocket(f)
	case fdinfo.FdTypes_NETLINKSK:
		return o.netlinkSocket(f)
	case fdinfo.FdTypes_PACKETSK:
		return o.packetSocket(f)
	case fdinfo.FdTypes_INOTIFY:
		return o.inotify(f)
	case fdinfo.FdTypes_EVENTPOLL:
		return o.eventpoll(f)
	case fdinfo.FdTypes_TIMERFD:
		o.timer(f)
	case fdinfo.FdTypes_NS:
		return o.namespaceFile(f)
	case pidfd:
		o.pidFile(f)
	case fdinfo.FdTypes_PIPE, fdinfo.FdTypes_EVENTFD, fdinfo.FdTypes_SIGNALFD, fdinfo.FdTypes_TTY, fdinfo.FdTypes_MEMFD:
		// They are made anew, with nothing but numbers of their own. What else there is to them has images of its own.
	default: // TUN, BPFMAP, FANOTIFY, EXT
		o.refuse(Finding{Check: "files", Object: f.String(), Field: "type", Found: f.kindName(),
			Allowed: "no such file: what CRIU would make of it cannot be judged", Remedy: "take the checkpoint while the container has none open"})
	}
	return nil
}

// readMounts reads where in the container a file's mount is.
func (o *openFiles) readMounts() error {
	ids, err := o.images.IDs(o.processes[0].GetPid())
	if err != nil {
		return err
	}
	entries, err := criu.Entries[*mnt.MntEntry](o.images, fmt.Sprintf("mountpoints-%d.img", ids.GetMntNsId()), "MNTS")
	if err != nil {
		return err
	}
	for _, e := range entries {
		o.mounts[int32(e.GetMntId())] = path.Join("/", e.GetMountpoint())
	}
	o.mountEntries = entries
	return nil
}

func (o *openFiles) readNamespaces() error {
	ids, err := o.images.IDs(o.processes[0].GetPid())
	if err != nil {
		return err
	}
	o.netNS = ids.GetNetNsId()
	return nil
}

// knowsPID says whether a PID is that of a process or thread of the checkpoint.
func (o *openFiles) knowsPID(pid uint64) bool {
	return slices.ContainsFunc(o.processes, func(p *criu.Process) bool {
		return slices.ContainsFunc(p.GetThreads(), func(tid uint32) bool { return uint64(tid) == pid })
	})
}
