package verify

import (
	"errors"
	"fmt"
	"io"

	ipc_desc "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-desc"
	ipc_msg "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-msg"
	ipc_sem "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-sem"
	ipc_shm "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/sysv"
)

// Linux's own bounds of System V IPC. What a namespace allows is less, and holds for CRIU as well.
const (
	maxMessage    = 8192    // CRIU's MSGMAX (criu/ipc_ns.c)
	maxSemaphores = 32000   // SEMMSL
	modeBits      = 0o777   // what a process chooses
	shmBits       = 0o3000  // SHM_DEST and SHM_LOCKED, which the kernel adds
	maxIPC        = 1 << 24 // IDs of objects, and more messages than a queue can have
)

// ipc checks the objects of System V IPC, and returns the sizes of the shared memory segments by
// their IDs. CRIU creates the objects in the pod's IPC namespace, which it has joined (criu/ipc_ns.c), within
// the limits of this namespace. Owner and mode need no check: any process may create an object
// and give it away (ipc(7), IPC_SET).
func (m *memory) ipc() (map[uint64]uint64, error) {
	ids, err := m.images.IDs(m.processes[0].GetPid())
	if err != nil {
		return nil, err
	}
	segments := map[uint64]uint64{}
	for _, read := range []struct {
		kind sysv.Kind
		from func(name string) error
	}{
		{sysv.Segment, func(name string) error { return m.sysVSegments(name, segments) }},
		{sysv.Queue, m.queues},
		{sysv.Semaphores, m.semaphores},
	} {
		name := criu.IPCName(string(read.kind), ids.GetIpcNsId())
		if _, ok := m.images.Size(name); !ok {
			continue
		}
		if err := read.from(name); err != nil {
			return nil, err
		}
	}
	total := len(m.report.IPC)
	if total == 0 {
		return segments, nil
	}
	host, err := isHost(m.spec, specs.IPCNamespace)
	if err != nil {
		return nil, err
	}
	if host {
		m.refuse(Finding{
			Check: "namespaces", Object: "System V IPC", Field: "objects", Found: fmt.Sprint(total), Allowed: "0: the IPC namespace is the node's",
			Remedy: remedies[specs.IPCNamespace],
		})
	}
	return segments, nil
}

// ipcObject checks what all kinds of objects have, and notes the object.
func (m *memory) ipcObject(kind sysv.Kind, d *ipc_desc.IpcDescEntry, bits uint32) error {
	if d.GetId() >= 1<<31 || d.GetMode()&^bits != 0 {
		return fmt.Errorf("object %d with mode %#o is none of System V IPC", d.GetId(), d.GetMode())
	}
	m.report.IPC = append(m.report.IPC, sysv.Object{Kind: kind, ID: d.GetId(), Key: d.GetKey()})
	return nil
}

func (m *memory) sysVSegments(name string, sizes map[uint64]uint64) error {
	all, err := criu.Entries[*ipc_shm.IpcShmEntry](m.images, name, "IPCNS_SHM")
	if err != nil {
		return err
	}
	for _, e := range all {
		if err := m.ipcObject(sysv.Segment, e.GetDesc(), modeBits|shmBits); err != nil {
			return malformed(name, "%s", err)
		}
		id := uint64(e.GetDesc().GetId())
		if _, twice := sizes[id]; twice {
			return malformed(name, "segment %d comes twice", id)
		}
		if !e.GetInPagemaps() || e.GetSize() == 0 || e.GetSize() > userEnd {
			return malformed(name, "segment %d of %d bytes has its content elsewhere, or is too large", id, e.GetSize())
		}
		sizes[id] = e.GetSize()
		// Huge pages of System V IPC are for who may lock memory; CRIU may (mm/hugetlb.c, can_do_hugetlb_shm).
		if e.GetHugetlbFlag() != 0 && !m.reachable.has(capIPCLock) {
			m.refuse(Finding{
				Check: "memory", Object: fmt.Sprintf("shared memory segment %d", id), Field: "huge pages", Found: "yes", Allowed: "no",
				Remedy: "add the capability IPC_LOCK, as in the pod that was checkpointed",
			})
		}
	}
	return nil
}

func (m *memory) queues(name string) error {
	var (
		left int
		data [maxMessage]byte
	)
	err := m.images.EachWithData(name, "IPCNS_MSG", func(_ int, entry []byte, rest io.Reader) error {
		if left == 0 {
			e := &ipc_msg.IpcMsgEntry{}
			if err := criu.Decode(entry, e); err != nil {
				return err
			}
			if e.GetQnum() > maxIPC {
				return fmt.Errorf("a queue has %d messages", e.GetQnum())
			}
			left = int(e.GetQnum())
			return m.ipcObject(sysv.Queue, e.GetDesc(), modeBits)
		}
		e := &ipc_msg.IpcMsg{}
		if err := criu.Decode(entry, e); err != nil {
			return err
		}
		if e.GetMsize() > maxMessage {
			return fmt.Errorf("a message has %d bytes", e.GetMsize())
		}
		left--
		_, err := io.ReadFull(rest, data[:roundUp(uint64(e.GetMsize()), 8)])
		return err
	})
	if err == nil && left > 0 {
		err = malformed(name, "%d messages are missing", left)
	}
	return err
}

func (m *memory) semaphores(name string) error {
	return m.images.EachWithData(name, "IPCNS_SEM", func(_ int, entry []byte, rest io.Reader) error {
		e := &ipc_sem.IpcSemEntry{}
		if err := criu.Decode(entry, e); err != nil {
			return err
		}
		if e.GetNsems() == 0 || e.GetNsems() > maxSemaphores {
			return fmt.Errorf("a set has %d semaphores", e.GetNsems())
		}
		_, err := io.CopyN(io.Discard, rest, int64(roundUp(2*uint64(e.GetNsems()), 8)))
		return errors.Join(err, m.ipcObject(sysv.Semaphores, e.GetDesc(), modeBits))
	})
}

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }
