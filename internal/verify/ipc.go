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
	image := func(kind string) (string, bool) {
		name := fmt.Sprintf("ipcns-%s-%d.img", kind, ids.GetIpcNsId())
		_, ok := m.images.Size(name)
		return name, ok
	}
	var (
		total    int
		segments = map[uint64]uint64{}
	)
	if name, ok := image("shm"); ok {
		n, err := m.sysVSegments(name, segments)
		if err != nil {
			return nil, err
		}
		total += n
	}
	if name, ok := image("msg"); ok {
		n, err := m.queues(name)
		if err != nil {
			return nil, err
		}
		total += n
	}
	if name, ok := image("sem"); ok {
		n, err := m.semaphores(name)
		if err != nil {
			return nil, err
		}
		total += n
	}
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

// ipcObject checks what all kinds of objects have.
func ipcObject(d *ipc_desc.IpcDescEntry, bits uint32) error {
	if d.GetId() >= 1<<31 || d.GetMode()&^bits != 0 {
		return fmt.Errorf("object %d with mode %#o is none of System V IPC", d.GetId(), d.GetMode())
	}
	return nil
}

func (m *memory) sysVSegments(name string, sizes map[uint64]uint64) (int, error) {
	all, err := criu.Entries[*ipc_shm.IpcShmEntry](m.images, name, "IPCNS_SHM")
	if err != nil {
		return 0, err
	}
	for _, e := range all {
		if err := ipcObject(e.GetDesc(), modeBits|shmBits); err != nil {
			return 0, malformed(name, "%s", err)
		}
		id := uint64(e.GetDesc().GetId())
		if _, twice := sizes[id]; twice {
			return 0, malformed(name, "segment %d comes twice", id)
		}
		if !e.GetInPagemaps() || e.GetSize() == 0 || e.GetSize() > userEnd {
			return 0, malformed(name, "segment %d of %d bytes has its content elsewhere, or is too large", id, e.GetSize())
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
	return len(all), nil
}

func (m *memory) queues(name string) (int, error) {
	var (
		total, left int
		data        [maxMessage]byte
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
			total, left = total+1, int(e.GetQnum())
			return ipcObject(e.GetDesc(), modeBits)
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
	return total, err
}

func (m *memory) semaphores(name string) (int, error) {
	var total int
	err := m.images.EachWithData(name, "IPCNS_SEM", func(_ int, entry []byte, rest io.Reader) error {
		e := &ipc_sem.IpcSemEntry{}
		if err := criu.Decode(entry, e); err != nil {
			return err
		}
		if e.GetNsems() == 0 || e.GetNsems() > maxSemaphores {
			return fmt.Errorf("a set has %d semaphores", e.GetNsems())
		}
		total++
		_, err := io.CopyN(io.Discard, rest, int64(roundUp(2*uint64(e.GetNsems()), 8)))
		return errors.Join(err, ipcObject(e.GetDesc(), modeBits))
	})
	return total, err
}

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }
