package criu

import (
	"fmt"
	"io"

	ipc_desc "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-desc"
	ipc_msg "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-msg"
	ipc_sem "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-sem"
	ipc_shm "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"

	"github.com/cri-restore/cri-restore/internal/sysv"
)

// IPCName is the name of the image with the objects of System V IPC of a kind, in the IPC namespace with this number in
// CRIU's images (criu/image-desc.c).
func IPCName(kind sysv.Kind, namespace uint32) string {
	return fmt.Sprintf("ipcns-%s-%d.img", kind, namespace)
}

// IPCObjects returns the objects of System V IPC that CRIU is going to make.
func (s *Images) IPCObjects() ([]sysv.Object, error) {
	processes, err := s.Processes()
	if err != nil {
		return nil, err
	}
	ids, err := s.IDs(processes[0].GetPid())
	if err != nil {
		return nil, err
	}
	var all []sysv.Object
	for _, read := range []struct {
		kind sysv.Kind
		from func(name string, add func(*ipc_desc.IpcDescEntry)) error
	}{{sysv.Segment, s.segments}, {sysv.Queue, s.queues}, {sysv.Semaphores, s.semaphores}} {
		name := IPCName(read.kind, ids.GetIpcNsId())
		if _, ok := s.Size(name); !ok {
			continue
		}
		err := read.from(name, func(d *ipc_desc.IpcDescEntry) {
			all = append(all, sysv.Object{Kind: read.kind, ID: d.GetId(), Key: d.GetKey()})
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (s *Images) segments(name string, add func(*ipc_desc.IpcDescEntry)) error {
	return s.Each(name, "IPCNS_SHM", func(_ int, entry []byte) error {
		e := &ipc_shm.IpcShmEntry{}
		err := Decode(entry, e)
		add(e.GetDesc())
		return err
	})
}

// queues skips the messages, of which a queue says how many follow.
func (s *Images) queues(name string, add func(*ipc_desc.IpcDescEntry)) error {
	var messages uint32
	return s.EachWithData(name, "IPCNS_MSG", func(_ int, entry []byte, data io.Reader) error {
		if messages > 0 {
			messages--
			e := &ipc_msg.IpcMsg{}
			if err := Decode(entry, e); err != nil {
				return err
			}
			return skip(data, e.GetMsize())
		}
		e := &ipc_msg.IpcMsgEntry{}
		err := Decode(entry, e)
		messages = e.GetQnum()
		add(e.GetDesc())
		return err
	})
}

func (s *Images) semaphores(name string, add func(*ipc_desc.IpcDescEntry)) error {
	return s.EachWithData(name, "IPCNS_SEM", func(_ int, entry []byte, data io.Reader) error {
		e := &ipc_sem.IpcSemEntry{}
		if err := Decode(entry, e); err != nil {
			return err
		}
		add(e.GetDesc())
		return skip(data, 2*e.GetNsems()) // each is a u16
	})
}

// skip passes over data of so many bytes, which CRIU fills up to a multiple of eight (criu/ipc_ns.c).
func skip(data io.Reader, bytes uint32) error {
	_, err := io.CopyN(io.Discard, data, (int64(bytes)+7)/8*8)
	return err
}
