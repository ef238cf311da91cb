package criutest

import (
	"fmt"
	"maps"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	criu_sa "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-sa"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/rlimit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/siginfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timer"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// What the processes of [Core] have.
const (
	// Capabilities are those that containerd gives a container, as a mask.
	Capabilities = 0xa80425fb
	// Unset is the loginuid of a process that no login started.
	Unset = 4294967295
	// Infinity is RLIM_INFINITY.
	Infinity = 1<<64 - 1
)

// Task is a process of a checkpoint. The zero Core is that of [Core], a zero Parent that of the
// first process or, for other ones, the first process.
type Task struct {
	PID, Parent uint32
	Core        *criu_core.CoreEntry
	// Threads are the other threads, by their ID.
	Threads map[uint32]*criu_core.CoreEntry
}

// Tasks returns the images, by name, of processes that all are in namespaces of their own: inventory,
// process tree, IDs and cores. It says nothing of memory, files and mounts.
func Tasks(tasks ...Task) map[string]string {
	images := map[string]string{
		"inventory.img": Image("INVENTORY", &inventory.InventoryEntry{
			ImgVersion: proto.Uint32(2), RootIds: IDs(1), RootCgSet: proto.Uint32(1),
			Lsmtype: inventory.Lsmtype_NO_LSM.Enum(),
		}),
	}
	var tree []proto.Message
	for i, t := range tasks {
		if i > 0 && t.Parent == 0 {
			t.Parent = tasks[0].PID
		}
		if t.Core == nil {
			t.Core = Core()
		}
		entry := &pstree.PstreeEntry{
			Pid: proto.Uint32(t.PID), Ppid: proto.Uint32(t.Parent), Pgid: proto.Uint32(t.PID), Sid: proto.Uint32(t.PID),
			Threads: []uint32{t.PID},
		}
		images[fmt.Sprintf("core-%d.img", t.PID)] = Image("CORE", t.Core)
		images[fmt.Sprintf("ids-%d.img", t.PID)] = Image("IDS", IDs(2, specs.UserNamespace))
		for _, tid := range slices.Sorted(maps.Keys(t.Threads)) {
			entry.Threads = append(entry.Threads, tid)
			images[fmt.Sprintf("core-%d.img", tid)] = Image("CORE", t.Threads[tid])
		}
		tree = append(tree, entry)
	}
	images["pstree.img"] = Image("PSTREE", tree...)
	return images
}

// Core returns what CRIU 4.2 writes of a process that runc has started as root with containerd's
// default capabilities, on x86-64. The registers are missing.
func Core(change ...func(*criu_core.CoreEntry)) *criu_core.CoreEntry {
	itimer := &timer.ItimerEntry{Isec: proto.Uint64(0), Iusec: proto.Uint64(0), Vsec: proto.Uint64(0),
		Vusec: proto.Uint64(0)}
	core := Thread()
	core.Tc = &criu_core.TaskCoreEntry{
		TaskState: proto.Uint32(1), ExitCode: proto.Uint32(0), Personality: proto.Uint32(0), Flags: proto.Uint32(0x400040),
		BlkSigset: proto.Uint64(0), Comm: proto.String("sh"),
		Timers:   &timer.TaskTimersEntry{Real: itimer, Virt: itimer, Prof: itimer},
		Rlimits:  &criu_core.TaskRlimitsEntry{},
		SignalsS: &siginfo.SignalQueueEntry{},
		Loginuid: proto.Uint32(Unset), OomScoreAdj: proto.Int32(0), ChildSubreaper: proto.Bool(false),
	}
	for range 16 { // RLIM_NLIMITS
		core.Tc.Rlimits.Rlimits = append(core.Tc.Rlimits.Rlimits,
			&rlimit.RlimitEntry{Cur: proto.Uint64(0), Max: proto.Uint64(0)})
	}
	for range 62 { // all signals but SIGKILL and SIGSTOP
		core.Tc.Sigactions = append(core.Tc.Sigactions, &criu_sa.SaEntry{
			Sigaction: proto.Uint64(0), Flags: proto.Uint64(0), Restorer: proto.Uint64(0), Mask: proto.Uint64(0),
		})
	}
	for _, f := range change {
		f(core)
	}
	return core
}

// Thread returns what CRIU writes of another thread of such a process.
func Thread(change ...func(*criu_core.CoreEntry)) *criu_core.CoreEntry {
	core := &criu_core.CoreEntry{
		Mtype: criu_core.CoreEntry_X86_64.Enum(),
		ThreadCore: &criu_core.ThreadCoreEntry{
			FutexRla: proto.Uint64(0), FutexRlaLen: proto.Uint32(0),
			SchedNice: proto.Int32(0), SchedPolicy: proto.Uint32(0),
			SignalsP: &siginfo.SignalQueueEntry{},
			Creds:    Creds(),
			Comm:     proto.String("sh"),
			CgSet:    proto.Uint32(2),
		},
	}
	for _, f := range change {
		f(core)
	}
	return core
}

// Zombie returns what CRIU writes of a process that has ended.
func Zombie() *criu_core.CoreEntry {
	return &criu_core.CoreEntry{
		Mtype: criu_core.CoreEntry_X86_64.Enum(),
		Tc: &criu_core.TaskCoreEntry{
			TaskState: proto.Uint32(2), ExitCode: proto.Uint32(0), Personality: proto.Uint32(0), Flags: proto.Uint32(0),
			BlkSigset: proto.Uint64(0), Comm: proto.String("sh"),
		},
	}
}

// Creds returns the credentials of [Core].
func Creds() *creds.CredsEntry {
	zero := proto.Uint32(0)
	e := &creds.CredsEntry{
		Uid: zero, Euid: zero, Suid: zero, Fsuid: zero,
		Gid: zero, Egid: zero, Sgid: zero, Fsgid: zero,
		Secbits: zero, Groups: []uint32{0},
		CapInh: Words(0), CapPrm: Words(Capabilities), CapEff: Words(Capabilities), CapBnd: Words(Capabilities),
	}
	Later(e, 18, 0)
	Later(e, 19, 0, 0)
	return e
}

// User gives credentials the user and group, and neither capabilities nor supplementary groups beyond its own.
func User(e *creds.CredsEntry, uid, gid uint32) {
	e.Uid, e.Euid, e.Suid, e.Fsuid = &uid, &uid, &uid, &uid
	e.Gid, e.Egid, e.Sgid, e.Fsgid = &gid, &gid, &gid, &gid
	e.Groups = []uint32{gid}
	e.CapInh, e.CapPrm, e.CapEff = Words(0), Words(0), Words(0)
}

// Words returns a set of capabilities as CRIU writes it.
func Words(mask uint64) []uint32 { return []uint32{uint32(mask), uint32(mask >> 32)} }

// Later sets a field of numbers that go-criu does not know, in the place of what was there. None removes it.
// The fields stay in their order, in which CRIU writes them.
func Later(m proto.Message, field protowire.Number, values ...uint64) {
	var before, own, after []byte
	for b := []byte(m.ProtoReflect().GetUnknown()); len(b) > 0; {
		n, _, size := protowire.ConsumeField(b)
		switch {
		case n < field:
			before = append(before, b[:size]...)
		case n > field:
			after = append(after, b[:size]...)
		}
		b = b[size:]
	}
	for _, v := range values {
		own = protowire.AppendVarint(protowire.AppendTag(own, field, protowire.VarintType), v)
	}
	m.ProtoReflect().SetUnknown(slices.Concat(before, own, after))
}
