package verify

import (
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/memfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/rlimit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// Where the mappings under test are: above all others.
var high = 4096 * criutest.Page

// mapped returns a judgement about more mappings of the only process.
func mapped(j judgement, more ...*vma.VmaEntry) judgement {
	j.change = func(files map[string]string, _ *specs.Spec) {
		change(files, "mm-1.img", "MM", func(e *mm.MmEntry) { e.Vmas = append(e.Vmas, more...) })
	}
	return j
}

// area is a mapping of a kind, with flags.
func area(status, flags uint32, change ...func(*vma.VmaEntry)) *vma.VmaEntry {
	e := criutest.Mapping(high, 2, change...)
	e.Status, e.Flags = &status, &flags
	return e
}

// withFiles is a checkpoint whose files.img has a memfd with ID 5 and a file of the kernel with ID 7 as well.
func withFiles() map[string]string {
	files := withIPC()
	zero := proto.Uint32(0)
	files["files.img"] += criutest.Image("FILES",
		&fdinfo.FileEntry{Type: fdinfo.FdTypes(18).Enum(), Id: proto.Uint32(5), Memfd: &memfd.MemfdFileEntry{
			Id: proto.Uint32(5), Flags: proto.Uint32(2), Pos: proto.Uint64(0), InodeId: zero,
			Fown: &fown.FownEntry{Uid: zero, Euid: zero, Signum: zero, PidType: zero, Pid: zero},
		}},
		&fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: proto.Uint32(7), Reg: &regfile.RegFileEntry{
			Id: proto.Uint32(7), Flags: zero, Pos: proto.Uint64(0), Name: proto.String("/proc/sys/kernel/core_pattern"), Mode: proto.Uint32(0o100644),
			Fown: &fown.FownEntry{Uid: zero, Euid: zero, Signum: zero, PidType: zero, Pid: zero},
		}},
	)[8:]
	return files
}

func TestMappings(t *testing.T) {
	id := func(n uint64) func(*vma.VmaEntry) { return func(e *vma.VmaEntry) { e.Shmid = &n } }
	at := func(start, end uint64) *vma.VmaEntry {
		return criutest.Mapping(0, 0, func(e *vma.VmaEntry) { e.Start, e.End = &start, &end })
	}
	page := criutest.Page
	vsyscall := func(start, end uint64) *vma.VmaEntry {
		e := at(start, end)
		e.Status = proto.Uint32(0x204)
		return e
	}
	cases := map[string]judgement{
		// Honest ones.
		"heap":                    mapped(judgement{}, area(0x221, 0x22)),
		"not accounted":           mapped(judgement{}, area(0x40201, 0x22)),
		"stack":                   mapped(judgement{}, area(0x201, 0x122)),
		"not reserved":            mapped(judgement{}, area(0x201, 0x4022)),
		"huge pages":              mapped(judgement{}, area(0x201, 0x40022|21<<26)),
		"droppable":               mapped(judgement{}, area(0x201, 0x28)),
		"vDSO":                    mapped(judgement{}, area(0x209, 0x22)),
		"vvar":                    mapped(judgement{}, area(0x1201, 0x22, func(e *vma.VmaEntry) { e.Madv = proto.Uint64(1 << 16) })),
		"shadow stack":            mapped(judgement{}, area(0x8201, 0x22)),
		"vsyscall":                mapped(judgement{}, vsyscall(vsyscallStart, vsyscallStart+page)),
		"file":                    mapped(judgement{}, area(0x41, 2, id(criutest.Program))),
		"file, shared":            mapped(judgement{}, area(0x81, 1, id(criutest.Program), func(e *vma.VmaEntry) { e.Fdflags = proto.Uint32(2) })),
		"memfd":                   mapped(judgement{}, area(0x4081, 1, id(5))),
		"memfd, private":          mapped(judgement{}, area(0x4041, 2, id(5))),
		"anonymous shared":        mapped(judgement{}, area(0x101, 0x21, id(77))),
		"System V":                mapped(judgement{}, area(0x501, 0x21, id(4))),
		"System V in two pieces":  mapped(judgement{}, criutest.Mapping(high, 1, sysV(0)), criutest.Mapping(high+page, 1, sysV(page))),
		"System V twice":          mapped(judgement{}, area(0x501, 0x21, id(4)), criutest.Mapping(high+4*page, 2, sysV(0))),
		"guards":                  mapped(judgement{}, area(0x201, 0x22), guard(high, 1), guard(high+page, 1)),
		"guard over two mappings": mapped(judgement{}, criutest.Mapping(high, 1), criutest.Mapping(high+page, 1), guard(high, 2)),
		"executable and writable": mapped(judgement{}, area(0x201, 0x22, func(e *vma.VmaEntry) { e.Prot = proto.Uint32(7) })),
		"advice":                  mapped(judgement{}, area(0x201, 0x22, func(e *vma.VmaEntry) { e.Madv = proto.Uint64(advice) })),
		"up to the end":           mapped(judgement{}, at(userEnd-page, userEnd)),
		"ring":                    ring(judgement{}, high, 2*page, 4),

		// Where the restorer may be.
		"not in order":                     mapped(judgement{malformed: "overlap, or are not in order"}, at(high, high+page), at(high-page, high)),
		"overlap":                          mapped(judgement{malformed: "overlap"}, at(high, high+2*page), at(high+page, high+3*page)),
		"end before the start":             mapped(judgement{malformed: "address space"}, at(high+page, high)),
		"empty":                            mapped(judgement{malformed: "address space"}, at(high, high)),
		"start within a page":              mapped(judgement{malformed: "address space"}, at(high+1, high+page)),
		"end within a page":                mapped(judgement{malformed: "address space"}, at(high, high+page+8)),
		"beyond the end":                   mapped(judgement{malformed: "address space"}, at(userEnd-page, userEnd+page)),
		"the kernel's":                     mapped(judgement{malformed: "address space"}, at(1<<63, 1<<63+page)),
		"offset within a page":             mapped(judgement{malformed: "address space"}, area(0x201, 0x22, func(e *vma.VmaEntry) { e.Pgoff = proto.Uint64(5) })),
		"negative offset":                  mapped(judgement{malformed: "address space"}, area(0x101, 0x21, func(e *vma.VmaEntry) { e.Pgoff = proto.Uint64(-page) })),
		"not the page of old system calls": mapped(judgement{malformed: "old system calls"}, vsyscall(high, high+page)),

		// Fields that CRIU would act on.
		"of CRIU's descriptor":   mapped(judgement{malformed: "descriptor of CRIU's"}, area(0x201, 0x22, func(e *vma.VmaEntry) { e.Fd = proto.Int64(3) })),
		"unknown protection":     mapped(judgement{malformed: "protection"}, area(0x201, 0x22, func(e *vma.VmaEntry) { e.Prot = proto.Uint32(0x01000003) })),
		"MADV_DONTNEED":          mapped(judgement{malformed: "madvise"}, area(0x201, 0x22, func(e *vma.VmaEntry) { e.Madv = proto.Uint64(1 << 4) })),
		"file with O_CREAT":      mapped(judgement{malformed: "opened with flags"}, area(0x41, 2, id(1), func(e *vma.VmaEntry) { e.Fdflags = proto.Uint32(0o102) })),
		"file with O_TRUNC":      mapped(judgement{malformed: "opened with flags"}, area(0x81, 1, id(1), func(e *vma.VmaEntry) { e.Fdflags = proto.Uint32(0o1002) })),
		"private, but shared":    mapped(judgement{malformed: "it is private"}, area(0x201, 0x21)),
		"private, not anonymous": mapped(judgement{malformed: "it is private"}, area(0x201, 0x02)),
		"shared, not anonymous":  mapped(judgement{malformed: "it is shared"}, area(0x101, 0x01)),
		"both":                   mapped(judgement{malformed: "it is private"}, area(0x201, 0x23)),
		"MAP_FIXED":              mapped(judgement{malformed: "has flags"}, area(0x201, 0x32)),
		"MAP_POPULATE":           mapped(judgement{malformed: "has flags"}, area(0x41, 0x8002, id(1))),
		"anonymous file":         mapped(judgement{malformed: "has flags"}, area(0x41, 0x22, id(1))),
		"no such file":           mapped(judgement{malformed: "file 9"}, area(0x41, 2, id(9))),
		"file beyond all":        mapped(judgement{malformed: "file 4294967297"}, area(0x41, 2, id(1<<32+1))),
		"file is a memfd":        mapped(judgement{malformed: "file 5"}, area(0x41, 2, id(5))),
		"memfd is a file":        mapped(judgement{malformed: "file 1"}, area(0x4041, 2, id(1))),
		"large vDSO":             mapped(judgement{malformed: "shared object"}, criutest.Mapping(high, 100, func(e *vma.VmaEntry) { e.Status = proto.Uint32(0x209) })),
		"guard nowhere":          mapped(judgement{malformed: "guards"}, guard(high, 1)),
		"guard too long":         mapped(judgement{malformed: "guards"}, area(0x201, 0x22), guard(high+page, 2)),
		"guards overlap":         mapped(judgement{malformed: "guards"}, area(0x201, 0x22), guard(high, 2), guard(high+page, 1)),
		"guard in the middle":    mapped(judgement{malformed: "unknown"}, guard(high, 1), criutest.Mapping(high+page, 1)),

		// Kinds.
		"of a plugin":        mapped(judgement{malformed: "unknown"}, area(1<<27|0x81, 1, id(1))),
		"premapped":          mapped(judgement{malformed: "unknown"}, area(1<<30|0x201, 0x22)),
		"without write":      mapped(judgement{malformed: "unknown"}, area(1<<29|0x201, 0x22)),
		"to be closed":       mapped(judgement{malformed: "unknown"}, area(1<<28|0x201, 0x22)),
		"of uprobes":         mapped(judgement{malformed: "unknown"}, area(1<<17, 0x22)),
		"nothing":            mapped(judgement{malformed: "unknown"}, area(0, 0x22)),
		"private and shared": mapped(judgement{malformed: "unknown"}, area(0x301, 0x22)),
		"heap of a file":     mapped(judgement{malformed: "unknown"}, area(0x61, 2, id(1))),

		// System V.
		"no such segment":      mapped(judgement{malformed: "no shared memory segment 8"}, area(0x501, 0x21, id(8))),
		"begins in the middle": mapped(judgement{malformed: "as a whole"}, area(0x501, 0x21, id(4), func(e *vma.VmaEntry) { e.Pgoff = &page })),
		"half of a segment":    mapped(judgement{malformed: "as a whole"}, criutest.Mapping(high, 1, sysV(0))),
		"more than a segment":  mapped(judgement{malformed: "as a whole"}, criutest.Mapping(high, 3, sysV(0))),
		"a hole in a segment":  mapped(judgement{malformed: "as a whole"}, criutest.Mapping(high, 1, sysV(0)), criutest.Mapping(high+2*page, 1, sysV(page))),

		// Rings.
		"ring that is not mapped":   ring(judgement{malformed: "is not mapped"}, high+page, page, 4),
		"ring longer than mapped":   ring(judgement{malformed: "is not mapped"}, high, 3*page, 4),
		"ring with too many events": ring(judgement{malformed: "is not mapped"}, high, 2*page, 1<<31),
		"mapped without a ring":     mapped(judgement{malformed: "1 rings"}, area(0x2000, 0x01)),

		// What needs a capability.
		"packet socket":       mapped(judgement{refused: "packet socket"}, area(0x801, 0x01, id(6))),
		"lowest addresses":    first(judgement{refused: "address: found 0x0-"}, 0),
		"second lowest":       first(judgement{refused: "address"}, userStart-page),
		"just not the lowest": first(judgement{}, userStart),
		"locked":              mapped(judgement{refused: "locked memory: found"}, area(0x201, 0x2022)),
	}
	for name, capability := range map[string]string{"packet socket": "CAP_NET_RAW", "lowest addresses": "CAP_SYS_RAWIO", "locked": "CAP_IPC_LOCK"} {
		refused := cases[name].change
		cases[name+" with the capability"] = judgement{change: func(files map[string]string, s *specs.Spec) {
			refused(files, s)
			s.Process.User.UID = 0
			s.Process.Capabilities.Bounding, s.Process.Capabilities.Permitted = []string{capability}, []string{capability}
		}}
	}
	locked := cases["locked"].change
	cases["locked within the limit"] = judgement{change: func(files map[string]string, s *specs.Spec) {
		locked(files, s)
		change(files, "core-1.img", "CORE", func(e *criu_core.CoreEntry) {
			e.Tc.Rlimits.Rlimits[memlock] = &rlimit.RlimitEntry{Cur: proto.Uint64(0), Max: proto.Uint64(2 * page)}
		})
	}}
	judge(t, withFiles, cases)
}

// sysV is a mapping of the segment of [withIPC] from an offset on.
func sysV(offset uint64) func(*vma.VmaEntry) {
	return func(e *vma.VmaEntry) {
		e.Status, e.Flags, e.Shmid, e.Pgoff = proto.Uint32(0x501), proto.Uint32(0x21), proto.Uint64(4), &offset
	}
}

// guard is a range that is guarded.
func guard(start, pages uint64) *vma.VmaEntry {
	return criutest.Mapping(start, pages, func(e *vma.VmaEntry) {
		e.Status, e.Flags, e.Prot = proto.Uint32(areaGuard), proto.Uint32(0), proto.Uint32(0)
	})
}

// ring is a queue of asynchronous I/O, where two pages are mapped for one.
func ring(j judgement, start, length uint64, requests uint32) judgement {
	j.change = func(files map[string]string, _ *specs.Spec) {
		change(files, "mm-1.img", "MM", func(e *mm.MmEntry) {
			e.Vmas = append(e.Vmas, area(0x2000, 0x01))
			e.Aios = append(e.Aios, &mm.AioRingEntry{Id: &start, NrReq: &requests, RingLen: proto.Uint32(uint32(length))})
		})
	}
	return j
}

// first is a mapping before all others.
func first(j judgement, start uint64) judgement {
	j.change = func(files map[string]string, _ *specs.Spec) {
		change(files, "mm-1.img", "MM", func(e *mm.MmEntry) { e.Vmas = append([]*vma.VmaEntry{criutest.Mapping(start, 1)}, e.Vmas...) })
	}
	return j
}

func TestSpace(t *testing.T) {
	with := func(j judgement, f func(*mm.MmEntry)) judgement {
		j.change = func(files map[string]string, _ *specs.Spec) { change(files, "mm-1.img", "MM", f) }
		return j
	}
	judge(t, withFiles, map[string]judgement{
		"no mapping":                with(judgement{malformed: "no mapping"}, func(e *mm.MmEntry) { e.Vmas = nil }),
		"program is not there":      with(judgement{malformed: "file 9"}, func(e *mm.MmEntry) { e.ExeFileId = proto.Uint32(9) }),
		"program is a memfd":        with(judgement{malformed: "file 5"}, func(e *mm.MmEntry) { e.ExeFileId = proto.Uint32(5) }),
		"long auxiliary vector":     with(judgement{malformed: "auxiliary vector"}, func(e *mm.MmEntry) { e.MmSavedAuxv = make([]uint64, maxAuxv+1) }),
		"full auxiliary vector":     with(judgement{}, func(e *mm.MmEntry) { e.MmSavedAuxv = make([]uint64, maxAuxv) }),
		"no transparent huge pages": with(judgement{}, func(e *mm.MmEntry) { e.ThpDisabled = proto.Bool(true) }),
	})
}

// TestMappedKernelFiles: CRIU opens a file of the kernel to map it, with the flags of the mapping.
func TestMappedKernelFiles(t *testing.T) {
	const name = "/proc/sys/kernel/core_pattern"
	for what, c := range map[string]struct {
		images map[string]string
		finds  string
	}{
		"to write":                    {mappedAs(0x81, 2, 3), name},
		"to read":                     {mappedAs(0x81, 0, 1), ""},
		"to write, by its protection": {mappedAs(0x81, 0, 3), name},
	} {
		t.Run(what, func(t *testing.T) {
			if what == "to write, by its protection" {
				change(c.images, "mm-1.img", "MM", func(e *mm.MmEntry) { e.Vmas[0].Fdflags = nil })
			}
			spec, root, report := filesSpec(nil), t.TempDir(), &Report{}
			files := criutest.Files(regularAt(name, 0o100644, criutest.ProcMount, 0)...)
			images := stage(t, merged(criutest.Checkpoint(criutest.Task{PID: 1}), files, c.images), spec, root)
			err := inContainer(t, subjectOf(t, images, spec, Rules{}), root, report, (*container).paths, (*container).mapped)
			requireFinding(t, report, err, c.finds)
		})
	}
}
