package criu

import (
	"fmt"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"google.golang.org/protobuf/proto"
)

// maxThreads bounds the threads of a checkpoint: Linux has no more PIDs (PID_MAX_LIMIT).
const maxThreads = 4 << 20

// The states of a task in its core image (CRIU: compel/include/uapi/task-state.h).
const (
	TaskAlive   = 1
	TaskDead    = 2 // a zombie
	TaskStopped = 3
)

// Process is a process of a checkpoint.
type Process struct {
	*pstree.PstreeEntry
	// Core is the image of the process and of its first thread.
	Core *criu_core.CoreEntry
	// Others are the images of its other threads, by thread ID.
	Others map[uint32]*criu_core.CoreEntry
}

// Dead says that it is a zombie, of which CRIU restores no more than that.
func (p *Process) Dead() bool { return p.Core.GetTc().GetTaskState() == TaskDead }

// Inventory returns the image that says what the others are.
func (s *Images) Inventory() (*inventory.InventoryEntry, error) {
	return One[*inventory.InventoryEntry](s, "inventory.img", "INVENTORY")
}

// Processes returns the processes of a checkpoint, in the order in which CRIU makes them; the
// first one is the container's.
func (s *Images) Processes() ([]*Process, error) {
	const name = "pstree.img"
	entries, err := Entries[*pstree.PstreeEntry](s, name, "PSTREE")
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, invalidImage(name, "it has no process")
	}
	var (
		out  []*Process
		seen = map[uint32]bool{}
	)
	for i, e := range entries {
		p := &Process{PstreeEntry: e, Others: map[uint32]*criu_core.CoreEntry{}}
		switch {
		case (i == 0) != (e.GetPpid() == 0):
			return nil, invalidImage(name, fmt.Sprintf("process %d has parent %d: the first process has none, and every "+
				"other one has one", e.GetPid(), e.GetPpid()))
		case i > 0 && !seen[e.GetPpid()]:
			return nil, invalidImage(name, fmt.Sprintf("process %d comes before its parent %d, or is listed twice", e.GetPid(),
				e.GetPpid()))
		}
		core, err := s.Core(e.GetPid())
		if err != nil {
			return nil, err
		}
		if p.Core = core; core.GetTc() == nil {
			return nil, invalidImage(CoreName(e.GetPid()), "it says nothing of the process")
		}
		// CRIU takes the first for the process itself without a look (criu/pstree.c,
		// read_one_pstree_item). Of a zombie it is not written: threads that are not restored are none.
		threads := e.GetThreads()
		switch {
		case p.Dead() && len(threads) <= 1:
			threads = nil
		case p.Dead() || len(threads) == 0 || threads[0] != e.GetPid():
			return nil, invalidImage(name, fmt.Sprintf("process %d is not the first of its own threads, or has some and is "+
				"dead", e.GetPid()))
		default:
			threads = threads[1:]
		}
		if e.GetPid() == 0 || seen[e.GetPid()] {
			return nil, invalidImage(name, fmt.Sprintf("process %d is listed twice, or is none", e.GetPid()))
		}
		seen[e.GetPid()] = true
		for _, tid := range threads {
			if tid == 0 || seen[tid] {
				return nil, invalidImage(name, fmt.Sprintf("thread %d is listed twice, or is none", tid))
			}
			if seen[tid] = true; len(seen) > maxThreads {
				return nil, invalidImage(name, "it has more threads than Linux has")
			}
			if p.Others[tid], err = s.Core(tid); err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// CoreName is the name of a thread's core image.
func CoreName(tid uint32) string { return fmt.Sprintf("core-%d.img", tid) }

// Core returns the core image of a thread.
func (s *Images) Core(tid uint32) (*criu_core.CoreEntry, error) {
	return One[*criu_core.CoreEntry](s, CoreName(tid), "CORE")
}

// IDs returns which objects and namespaces the processes of a checkpoint have in common.
func (s *Images) IDs(pid uint32) (*criu_core.TaskKobjIdsEntry, error) {
	return One[*criu_core.TaskKobjIdsEntry](s, fmt.Sprintf("ids-%d.img", pid), "IDS")
}

// One returns the entry of an image that has one. CRIU reads the first and would ignore others.
func One[M proto.Message](s *Images, name, kind string) (M, error) {
	var zero M
	all, err := Entries[M](s, name, kind)
	if err != nil {
		return zero, err
	}
	if len(all) != 1 {
		return zero, invalidImage(name, fmt.Sprintf("it has %d entries, not one", len(all)))
	}
	return all[0], nil
}
