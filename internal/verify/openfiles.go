package verify

import (
	"errors"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
)

const filesImage = "files.img"

// openFiles refuses open files that reach outside the container, as far as that can be said without their paths. CRIU opens,
// creates and connects every one of them as host root, in the container's namespaces, by
// what the images say.
func (v *verifier) openFiles() error {
	o, err := newOpenFiles(v)
	if err != nil {
		return err
	}
	for _, f := range o.files {
		if err := errors.Join(v.step(1), o.file(f)); err != nil {
			return err
		}
	}
	for _, check := range []func() error{
		o.labels, o.directories, o.ghosts, o.unixPeers, o.pipeData, o.memoryFiles, o.terminals, o.locks, o.unused, o.connections, o.replaceFiles,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	o.report.Directories, err = Directories(o.images)
	return err
}

// openFiles are the open files of a checkpoint. They are made whole, or not at all, by newOpenFiles.
type openFiles struct {
	*verifier
	reachable capabilities // those that a process which the spec starts could come to have
	files     []*openFile
	byID      map[uint32]*openFile
	netNS     uint32
	// tables are the descriptors of the living processes, by their PID.
	tables map[uint32]descriptors
	// holders are the tables with a file, for those that wait for others.
	holders map[*openFile][]descriptors
	// changed are the entries of files.img that CRIU is to read in another form, by the ID of the file.
	changed  map[uint32]*fdinfo.FileEntry
	remaps   []*remap
	remapped map[uint32]bool // the PIDs of dead processes that CRIU makes for a time
	pids     map[uint64]bool // those of processes and threads
}

// newOpenFiles reads what processes have open, and refuses only what is malformed.
func newOpenFiles(v *verifier) (*openFiles, error) {
	o := &openFiles{
		verifier: v, byID: map[uint32]*openFile{}, tables: map[uint32]descriptors{}, holders: map[*openFile][]descriptors{}, remapped: map[uint32]bool{}, pids: map[uint64]bool{},
		changed: map[uint32]*fdinfo.FileEntry{},
	}
	g, _, err := v.granted()
	if err != nil {
		return nil, err
	}
	o.reachable = g.reachable
	ids, err := v.images.IDs(v.processes[0].GetPid())
	if err != nil {
		return nil, err
	}
	o.netNS = ids.GetNetNsId()
	for _, p := range v.processes {
		for _, tid := range p.GetThreads() {
			o.pids[uint64(tid)] = true
		}
	}
	for _, read := range []func() error{o.readFiles, o.readDescriptors, o.readRemaps, o.readQueues} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	return o, nil
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

// knowsPID says whether a PID is that of a process or thread of the checkpoint.
func (o *openFiles) knowsPID(pid uint64) bool { return o.pids[pid] }
