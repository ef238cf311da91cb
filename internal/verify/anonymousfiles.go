package verify

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// inotify checks what is watched. Without a path, CRIU would open it by a handle, which may be of any file of the
// whole file system, outside the container as well (criu/fsnotify.c, get_mark_path).
func (o *openFiles) inotify(f *openFile) error {
	for _, w := range f.GetIfy().GetWd() {
		h := w.GetFHandle()
		if h.GetPath() == "" {
			o.refuse(Finding{Check: "files", Object: f.String(), Field: "watch", Found: fmt.Sprintf("watch %d, which has no path", w.GetWd()),
				Allowed: "watches of paths in the container", Remedy: "take the checkpoint while the container watches nothing that was deleted"})
			continue
		}
		if err := o.name(f, h.GetPath()); err != nil {
			return err
		}
	}
	return nil
}

// eventpoll checks that only descriptors of a process are waited for, none of CRIU's.
func (o *openFiles) eventpoll(f *openFile) error {
	for _, t := range f.GetEpfd().GetTfd() {
		if err := o.step(1 + len(o.holders[f])); err != nil {
			return err
		}
		has := slices.ContainsFunc(o.holders[f], func(table descriptors) bool { return table[t.GetTfd()] != nil })
		if !has && f.used {
			return malformed(filesImage, "file %d (EVENTPOLL): no process with it has descriptor %d", f.GetId(), t.GetTfd())
		}
		// The kernel drops the flag for who may not keep the node awake (fs/eventpoll.c, ep_take_care_of_epollwakeup).
		if t.GetEvents()&unix.EPOLLWAKEUP != 0 && !o.could("CAP_BLOCK_SUSPEND") {
			o.refuse(Finding{Check: "files", Object: f.String(), Field: "events", Found: "EPOLLWAKEUP", Allowed: "none that keeps the node awake, for lack of CAP_BLOCK_SUSPEND"})
		}
	}
	return nil
}

// timer refuses the clocks that wake the node up.
func (o *openFiles) timer(f *openFile) {
	switch clock := f.GetTfd().GetClockid(); clock {
	case unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME:
	default:
		if !o.could("CAP_WAKE_ALARM") {
			o.refuse(Finding{Check: "files", Object: f.String(), Field: "clock", Found: fmt.Sprint(clock), Allowed: "no alarm clock, for lack of CAP_WAKE_ALARM"})
		}
	}
}

// pidFile refuses handles of processes that are not in the checkpoint. For one that has
// ended (-1) CRIU makes a process of its own for a moment (criu/pidfd.c).
func (o *openFiles) pidFile(f *openFile) {
	if f.pid != -1 && (f.pid <= 0 || !o.knowsPID(uint64(f.pid))) {
		o.refuse(Finding{Check: "files", Object: f.String(), Field: "process", Found: fmt.Sprint(f.pid), Allowed: "a process of the checkpoint"})
	}
}

// namespaceFile checks that a namespace is one in which the container's processes are.
func (o *openFiles) namespaceFile(f *openFile) error {
	e := f.GetNsf()
	ids, err := o.images.IDs(o.processes[0].GetPid())
	if err != nil {
		return err
	}
	of := map[uint32]uint32{
		unix.CLONE_NEWPID: ids.GetPidNsId(), unix.CLONE_NEWNET: ids.GetNetNsId(), unix.CLONE_NEWUSER: ids.GetUserNsId(),
		unix.CLONE_NEWIPC: ids.GetIpcNsId(), unix.CLONE_NEWUTS: ids.GetUtsNsId(), unix.CLONE_NEWNS: ids.GetMntNsId(),
		unix.CLONE_NEWCGROUP: ids.GetCgroupNsId(), unix.CLONE_NEWTIME: ids.GetTimeNsId(),
	}
	// IDs are unique among all kinds; CRIU looks for the first kind that has it.
	same := 0
	for _, id := range of {
		if id == e.GetNsId() {
			same++
		}
	}
	if e.GetNsId() == 0 || of[e.GetNsCflag()] != e.GetNsId() || same != 1 {
		o.refuse(Finding{Check: "files", Object: f.String(), Field: "namespace", Found: fmt.Sprintf("%d of kind %#x", e.GetNsId(), e.GetNsCflag()),
			Allowed: "the namespaces of the container"})
	}
	if !slices.Contains([]uint32{unix.O_RDONLY, unix.O_PATH}, e.GetFlags()&(unix.O_ACCMODE|unix.O_PATH)) {
		return malformed(filesImage, "file %d (NS): flags %#x", f.GetId(), e.GetFlags())
	}
	return nil
}
