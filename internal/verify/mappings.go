package verify

import (
	"fmt"
	"runtime"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// The kinds of mappings (CRIU: criu/include/image.h, VMA_AREA_*), as far as CRIU 4.2 writes
// them (criu/proc_parse.c, handle_vma).
const (
	areaRegular     = 1 << 0
	areaVsyscall    = 1 << 2
	areaVDSO        = 1 << 3
	areaHeap        = 1 << 5
	areaFilePrivate = 1 << 6
	areaFileShared  = 1 << 7
	areaAnonShared  = 1 << 8
	areaAnonPrivate = 1 << 9
	areaSysV        = 1 << 10
	areaSocket      = 1 << 11
	areaVVAR        = 1 << 12
	areaAIO         = 1 << 13
	areaMemfd       = 1 << 14
	areaShadowStack = 1 << 15
	areaGuard       = 1 << 16
	// areaUnaccounted says that nobody has promised memory for it, as any process may map it so (mmap(2), MAP_NORESERVE; CRIU 4.3:
	// VMA_AREA_NOT_ACCOUNTABLE).
	areaUnaccounted = 1 << 18

	// All together.
	kindAnonPrivate = areaRegular | areaAnonPrivate
	kindAnonShared  = areaRegular | areaAnonShared
	kindSysV        = kindAnonShared | areaSysV
	kindSocket      = areaRegular | areaSocket
	kindVsyscall    = areaVsyscall | areaAnonPrivate
)

// The flags of mmap(2), the same on all architectures that we build for.
const (
	mapShared     = 0x1
	mapPrivate    = 0x2
	mapDroppable  = 0x8
	mapType       = 0xf
	mapAnonymous  = 0x20
	mapGrowsDown  = 0x100
	mapLocked     = 0x2000
	mapNoReserve  = 0x4000
	mapHuge       = 0x40000
	mapHugeSize   = 0x3f << 26
	mapExtraFlags = mapGrowsDown | mapLocked | mapNoReserve | mapHuge | mapHugeSize
)

// advice are the calls of madvise(2) that CRIU repeats (criu/proc_parse.c, __parse_vmflags): RANDOM, SEQUENTIAL,
// DONTFORK, MERGEABLE, HUGEPAGE, NOHUGEPAGE, DONTDUMP and WIPEONFORK. For any bit it would call madvise.
const advice = 1<<1 | 1<<2 | 1<<10 | 1<<12 | 1<<14 | 1<<15 | 1<<16 | 1<<18

// The capabilities that make something possible here (linux/capability.h).
const (
	capNetRaw   capabilities = 1 << 13
	capIPCLock  capabilities = 1 << 14
	capSysRawIO capabilities = 1 << 17
)

// Where mappings may be. The lowest addresses are closed to all who may not use raw I/O
// (sysctl vm.mmap_min_addr), but not to CRIU.
const (
	userStart     = 64 << 10
	vsyscallStart = 0xffffffffff600000
)

var userEnd = map[string]uint64{"amd64": 1<<47 - 4096, "arm64": 1 << 52}[runtime.GOARCH]

const (
	maxAuxv         = 44 // CRIU's AT_VECTOR_SIZE
	maxOpenMode     = 2  // O_RDWR
	maxKernelPages  = 16 // of the vDSO, which CRIU may write to
	aioHeader       = 32 // sizeof(struct aio_ring)
	aioEvent        = 32 // sizeof(struct io_event)
	memlock         = 8  // RLIMIT_MEMLOCK
	unlimitedMemory = 1<<64 - 1
)

// space is the memory of a process.
type space struct {
	process *criu.Process
	name    string // of its image
	mm      *mm.MmEntry
	vmas    []*vma.VmaEntry // without the guards
	pages   []uint64        // in each of them, in the pages image
}

// filled says that CRIU fills a mapping from the pagemap of the process (criu/include/vma.h,
// vma_entry_is_private).
func filled(e *vma.VmaEntry) bool {
	s := kindOfArea(e)
	return s == areaAIO || s&areaRegular != 0 && s&(areaAnonPrivate|areaFilePrivate) != 0
}

// space checks how the memory of a process is laid out, and to what it is mapped. While CRIU's
// restorer maps it, it runs in the same address space and has all rights of the node: a mapping that is not
// where CRIU believes it to be could replace the restorer's own code. So they are
// page by page what CRIU writes: in order, apart from each other, and of kinds whose fields fit together.
func (m *memory) space(p *criu.Process) (*space, error) {
	s := &space{process: p, name: fmt.Sprintf("mm-%d.img", p.GetPid())}
	var err error
	if s.mm, err = criu.One[*mm.MmEntry](m.images, s.name, "MM"); err != nil {
		return nil, err
	}
	if n := len(s.mm.GetMmSavedAuxv()); n > maxAuxv {
		return nil, malformed(s.name, "the auxiliary vector has %d words", n)
	}
	if m.files[s.mm.GetExeFileId()] != fileRegular {
		return nil, malformed(s.name, "the program is file %d, which is no regular file", s.mm.GetExeFileId())
	}
	all := s.mm.GetVmas()
	guards := len(all)
	for guards > 0 && kindOfArea(all[guards-1]) == areaGuard {
		guards--
	}
	s.vmas = all[:guards]
	s.pages = make([]uint64, guards)
	if guards == 0 {
		return nil, malformed(s.name, "it has no mapping") // CRIU would look for an image of an old version
	}
	var end uint64
	for _, e := range s.vmas {
		if e.GetStart() < end {
			return nil, malformed(s.name, "the mappings %s and the one before overlap, or are not in order", where(e))
		}
		end = e.GetEnd()
		if err := m.mapping(s, e); err != nil {
			return nil, malformed(s.name, "mapping %s: %s", where(e), err)
		}
	}
	if err := m.rings(s); err != nil {
		return nil, err
	}
	if err := m.attached(s); err != nil {
		return nil, err
	}
	m.locked(s)
	m.report.Reserved.add(s.vmas)
	// Ranges without access (MADV_GUARD_INSTALL): CRIU notes them behind the mappings.
	at, end := 0, uint64(0)
	for _, e := range all[guards:] {
		if e.GetStart() < end || !m.aligned(e) || e.GetPgoff() != 0 || e.GetFlags() != 0 || e.GetProt() != 0 || e.GetMadv() != 0 || e.GetFd() != -1 ||
			!m.within(s, &at, e.GetStart(), e.GetEnd(), nil) {
			return nil, malformed(s.name, "the guards %s are not within the mappings", where(e))
		}
		end = e.GetEnd()
	}
	return s, nil
}

// kindOfArea is what a mapping is to CRIU.
func kindOfArea(e *vma.VmaEntry) uint32 { return e.GetStatus() &^ areaUnaccounted }

// mapping checks one mapping by itself.
func (m *memory) mapping(s *space, e *vma.VmaEntry) error {
	status, flags := kindOfArea(e), e.GetFlags()
	if status == kindVsyscall { // CRIU leaves it alone, see below restorer.c's "OK, lets try to map new one"
		if e.GetStart() != vsyscallStart || e.GetEnd() != vsyscallStart+m.page || e.GetMadv() != 0 {
			return fmt.Errorf("it is not the kernel's page for old system calls")
		}
		return nil
	}
	switch {
	case !m.aligned(e) || e.GetEnd() > userEnd || e.GetPgoff()%m.page != 0 || e.GetPgoff() > 1<<62:
		return fmt.Errorf("it is not in the address space of a process")
	case e.GetStart() < userStart && !m.reachable.has(capSysRawIO):
		m.refuse(Finding{
			Check: "memory", Object: processName(s.process), Field: "address", Found: where(e), Allowed: fmt.Sprintf("%#x and above", uint64(userStart)),
		})
	case e.GetProt() > 7:
		return fmt.Errorf("it has protection %#x", e.GetProt())
	case e.GetFd() != -1:
		return fmt.Errorf("it is of a descriptor of CRIU's")
	case e.GetMadv()&^advice != 0:
		return fmt.Errorf("it has madvise bits %#x", e.GetMadv())
	case e.GetFdflags() > maxOpenMode:
		// CRIU opens the file with these flags, O_CREAT and O_TRUNC among them if they are there (criu/files-reg.c, open_filemap).
		return fmt.Errorf("its file would be opened with flags %#o", e.GetFdflags())
	}
	kind, allowed := flags&mapType, uint32(mapAnonymous)
	switch base := status &^ (areaHeap | areaVDSO | areaVVAR | areaShadowStack); {
	case base == kindAnonPrivate:
		if kind != mapPrivate && kind != mapDroppable || flags&mapAnonymous == 0 {
			return fmt.Errorf("it is private, and has flags %#x", flags)
		}
		if status&(areaVDSO|areaVVAR) != 0 && (e.GetEnd()-e.GetStart() > maxKernelPages*m.page || flags&mapExtraFlags != 0) {
			return fmt.Errorf("it is not the kernel's shared object")
		}
		allowed |= mapExtraFlags
	case status == kindAnonShared, status == kindSysV:
		if kind != mapShared || flags&mapAnonymous == 0 {
			return fmt.Errorf("it is shared, and has flags %#x", flags)
		}
		m.shared(e)
		allowed |= mapExtraFlags &^ mapGrowsDown
	case status&^areaMemfd == areaRegular|areaFilePrivate, status&^areaMemfd == areaRegular|areaFileShared:
		want, file := uint32(mapPrivate), fileRegular
		if status&areaFileShared != 0 {
			want = mapShared
		}
		if status&areaMemfd != 0 {
			file = fileMemfd
		}
		if kind != want {
			return fmt.Errorf("it is of a file, and has flags %#x", flags)
		}
		if e.GetShmid() > 1<<32-1 || m.files[uint32(e.GetShmid())] != file {
			return fmt.Errorf("it is of file %d, which is not such a file", e.GetShmid())
		}
		allowed = mapExtraFlags
	case status == kindSocket:
		if kind != mapShared {
			return fmt.Errorf("it is of a socket, and has flags %#x", flags)
		}
		if !m.reachable.has(capNetRaw) {
			m.refuse(Finding{
				Check: "memory", Object: processName(s.process), Field: "packet socket", Found: "mapped at " + where(e), Allowed: "none",
				Remedy: "add the capability NET_RAW, as in the pod that was checkpointed",
			})
		}
		allowed = mapLocked | mapNoReserve
	case status == areaAIO:
		if kind != mapShared && kind != mapPrivate {
			return fmt.Errorf("it is a ring, and has flags %#x", flags)
		}
		allowed |= mapNoReserve | mapLocked
	default:
		// Among these are marks that only CRIU itself makes during a restore, and mappings of plugins.
		return fmt.Errorf("it is of kind %#x, which is unknown", status)
	}
	if flags&^(mapType|allowed) != 0 {
		return fmt.Errorf("it has flags %#x", flags)
	}
	return nil
}

// mapped compares files that are opened for writing because they are mapped so. The flags of a mapping are
// its own: files.img has those of the first one of the same file.
func (c *container) mapped() error {
	for _, p := range c.processes {
		if p.Dead() {
			continue
		}
		m, err := criu.One[*mm.MmEntry](c.images, fmt.Sprintf("mm-%d.img", p.GetPid()), "MM")
		if err != nil {
			return err
		}
		if err := c.step(len(m.GetVmas())); err != nil {
			return err
		}
		for _, e := range m.GetVmas() {
			if e.GetStatus()&(areaFilePrivate|areaFileShared) == 0 || e.GetStatus()&areaMemfd != 0 || fileFlags(e) == unix.O_RDONLY {
				continue
			}
			f := c.byID[uint32(e.GetShmid())]
			if at, ok := c.places[f]; ok && f.kind == fdinfo.FdTypes_REG {
				c.kernelFile(f, at, f.GetReg().GetMode(), fileFlags(e))
			}
		}
	}
	return nil
}

// fileFlags are the flags with which CRIU opens a file to map it (criu/files-reg.c, collect_filemap).
func fileFlags(e *vma.VmaEntry) uint32 {
	if e.Fdflags == nil && e.GetStatus()&areaFileShared != 0 && e.GetProt()&unix.PROT_WRITE != 0 {
		return unix.O_RDWR
	}
	return e.GetFdflags()
}

func (m *memory) aligned(e *vma.VmaEntry) bool {
	return e.GetStart() < e.GetEnd() && e.GetStart()%m.page == 0 && e.GetEnd()%m.page == 0
}

func where(e *vma.VmaEntry) string { return fmt.Sprintf("%#x-%#x", e.GetStart(), e.GetEnd()) }

// rings checks that the queues of asynchronous I/O lie where they were mapped: CRIU's restorer reads
// and replaces the memory there (criu/pie/restorer.c, restore_aio_ring).
func (m *memory) rings(s *space) error {
	mapped := map[uint64]uint64{}
	for _, e := range s.vmas {
		if kindOfArea(e) == areaAIO {
			mapped[e.GetStart()] = e.GetEnd() - e.GetStart()
		}
	}
	for _, r := range s.mm.GetAios() {
		size, ok := mapped[r.GetId()]
		if !ok || size != uint64(r.GetRingLen()) || uint64(r.GetNrReq()) > (size-aioHeader)/aioEvent {
			return malformed(s.name, "the ring at %#x is not mapped", r.GetId())
		}
		delete(mapped, r.GetId())
	}
	if len(mapped) > 0 {
		return malformed(s.name, "%d rings are mapped of which it says nothing", len(mapped))
	}
	return nil
}

// attached checks that a segment of System V IPC is mapped as a whole: CRIU attaches it once, at the first
// mapping (criu/shmem.c, open_shmem_sysv).
func (m *memory) attached(s *space) error {
	type attachment struct{ start, end uint64 }
	last := map[uint64]attachment{}
	whole := func(id uint64, a attachment) bool { return a.end-a.start == roundUp(m.segments[id], m.page) }
	for _, e := range s.vmas {
		if kindOfArea(e) != kindSysV {
			continue
		}
		id := e.GetShmid()
		if _, ok := m.segments[id]; !ok {
			return malformed(s.name, "mapping %s: there is no shared memory segment %d", where(e), id)
		}
		a, ok := last[id]
		switch {
		case e.GetPgoff() == 0 && (!ok || whole(id, a)):
			a = attachment{e.GetStart(), e.GetEnd()}
		case ok && e.GetStart() == a.end && e.GetPgoff() == a.end-a.start:
			a.end = e.GetEnd()
		default:
			return malformed(s.name, "mapping %s: segment %d is not mapped as a whole", where(e), id)
		}
		last[id] = a
	}
	for id, a := range last {
		if !whole(id, a) {
			return malformed(s.name, "segment %d is not mapped as a whole", id)
		}
	}
	return nil
}
