package verify

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/memfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// The kinds of open files that can be mapped.
const (
	fileRegular = 1 + iota
	fileMemfd
)

// memory is what the checks of one checkpoint's memory have in common.
type memory struct {
	*verifier
	page uint64
	// reachable are the capabilities that a process which the spec starts could come to have.
	reachable capabilities
	files     map[uint32]int    // by ID
	segments  map[uint64]uint64 // bytes of System V shared memory, by ID
	objects   map[uint64]object // memory that is not of one process alone, by the number of its pagemap
	mapped    map[uint64]object // those that are there only because processes map them
	spaces    map[uint32]*space // by PID
	taken     map[uint32]string // whose pages an image has, by its number
	pages     uint64            // that a restore takes at least
}

// object is shared memory.
type object struct {
	size uint64
	huge bool
}

// memory compares the mappings with what is mapped, the pagemaps with the mappings, the pages with
// the pagemaps and their sum with the container's limit.
func (v *verifier) memory() error {
	m := &memory{
		verifier: v, page: uint64(os.Getpagesize()),
		files: map[uint32]int{}, objects: map[uint64]object{}, mapped: map[uint64]object{}, spaces: map[uint32]*space{}, taken: map[uint32]string{},
	}
	g, _, err := v.granted()
	if err != nil {
		return err
	}
	m.reachable = g.reachable
	if err := m.open(); err != nil {
		return err
	}
	for _, p := range v.processes {
		if p.Dead() {
			continue
		}
		s, err := m.space(p)
		if err != nil {
			return err
		}
		m.spaces[p.GetPid()] = s
		if err := m.privatePages(s); err != nil {
			return err
		}
		m.count(s, m.spaces[p.GetPpid()])
	}
	for id, o := range m.mapped {
		m.add(id, o)
	}
	if err := m.sharedPages(); err != nil {
		return err
	}
	for _, name := range v.images.Names() {
		if kind, digits, ok := numbered(name); ok && kind == ofPages && !m.hasPages(digits) {
			return malformed(name, "no pagemap has its pages")
		}
	}
	m.limit()
	return nil
}

// open notes what can be mapped.
func (m *memory) open() error {
	if _, ok := m.images.Size("files.img"); ok {
		all, err := criu.Entries[*fdinfo.FileEntry](m.images, "files.img", "FILES")
		if err != nil {
			return err
		}
		for _, e := range all {
			switch {
			case e.GetReg() != nil:
				m.files[e.GetId()] = fileRegular
			case e.GetMemfd() != nil:
				m.files[e.GetId()] = fileMemfd
			}
		}
	}
	var err error
	if m.segments, err = m.ipc(); err != nil {
		return err
	}
	for id, size := range m.segments {
		m.add(id, object{size: size})
	}
	if _, ok := m.images.Size("memfd.img"); ok {
		all, err := criu.Entries[*memfd.MemfdInodeEntry](m.images, "memfd.img", "MEMFD_INODE")
		if err != nil {
			return err
		}
		for _, e := range all {
			m.add(uint64(e.GetShmid()), object{size: e.GetSize(), huge: e.GetHugetlbFlag() != 0})
		}
	}
	return nil
}

// add notes a shared object. Should two have one pagemap, it must fit both.
func (m *memory) add(id uint64, o object) {
	if other, ok := m.objects[id]; ok {
		o.size = min(o.size, other.size)
	}
	m.objects[id] = o
}

// shared notes a mapping of anonymous shared memory. The object ends with the last mapping of it
// (criu/shmem.c, collect_shmem).
func (m *memory) shared(e *vma.VmaEntry) {
	if kindOfArea(e) != kindAnonShared {
		return // the size of a segment is known
	}
	o := m.mapped[e.GetShmid()]
	o.size, o.huge = max(o.size, e.GetPgoff()+e.GetEnd()-e.GetStart()), e.GetFlags()&mapHuge != 0
	m.mapped[e.GetShmid()] = o
}

// privatePages checks the pages of a process: CRIU's restorer reads them to where the pagemap says
// (criu/mem.c, restore_priv_vma_content).
func (m *memory) privatePages(s *space) error {
	name := fmt.Sprintf("pagemap-%d.img", s.process.GetPid())
	at := 0
	return m.pagemap(name, "PAGEMAP", userEnd, func(start, end uint64) error {
		if !m.within(s, &at, start, end, s.pages) {
			return fmt.Errorf("the pages %#x-%#x are not all in private mappings of the process", start, end)
		}
		return nil
	})
}

// within says whether a range is all in mappings, one after the other, and counts the
// pages in each if there is where. The search begins at the mapping that at says, and leaves it at the last one.
func (m *memory) within(s *space, at *int, start, end uint64, pages []uint64) bool {
	for start < end {
		for *at < len(s.vmas) && s.vmas[*at].GetEnd() <= start {
			*at++
		}
		if *at == len(s.vmas) {
			return false
		}
		e := s.vmas[*at]
		if start < e.GetStart() || kindOfArea(e) == kindVsyscall || pages != nil && !filled(e) {
			return false
		}
		next := min(end, e.GetEnd())
		if pages != nil {
			pages[*at] += (next - start) / m.page
		}
		start = next
	}
	return true
}

// sharedPages checks the pages of shared memory. CRIU copies them to their offset in it, and does not look
// whether that is negative (criu/shmem.c, do_restore_shmem_content).
func (m *memory) sharedPages() error {
	const prefix = "pagemap-shmem-"
	for _, name := range m.images.Names() {
		kind, digits, ok := numbered(name)
		if !ok || kind != ofShared || !strings.HasPrefix(name, prefix) {
			continue
		}
		id, _ := strconv.ParseUint(digits, 10, 64) // see names
		o, ok := m.objects[id]
		if !ok {
			return malformed(name, "no shared memory has the number %s", digits)
		}
		var sum uint64
		// The magic number of the other pagemaps (criu/include/magic.h).
		err := m.pagemap(name, "PAGEMAP", roundUp(o.size, m.page), func(start, end uint64) error {
			sum += (end - start) / m.page
			return nil
		})
		if err != nil {
			return err
		}
		if !o.huge {
			m.pages += sum
		}
	}
	return nil
}

// pagemap checks one pagemap: its ranges follow each other below an end, and all their pages are in an
// image of its own, which has no more. (Of a shorter one CRIU reads the rest for ever:
// criu/pagemap.c, process_async_reads.)
func (m *memory) pagemap(name, kind string, limit uint64, f func(start, end uint64) error) error {
	var sum, last uint64
	id, err := m.images.Pagemap(name, kind, func(start, pages uint64) error {
		if start%m.page != 0 || start < last {
			return fmt.Errorf("the pages at %#x are not in order", start)
		}
		if start >= limit || pages > (limit-start)/m.page {
			return fmt.Errorf("%d pages at %#x end beyond %#x", pages, start, limit)
		}
		last, sum = start+pages*m.page, sum+pages
		return f(start, last)
	})
	if err != nil {
		return err
	}
	if other := m.taken[id]; other != "" {
		return malformed(name, "its pages are in the same image as those of %s", other)
	}
	m.taken[id] = name
	image := fmt.Sprintf("pages-%d.img", id)
	if size, ok := m.images.Size(image); !ok && sum > 0 {
		return malformed(name, "%s, with its %d pages, is not there", image, sum)
	} else if uint64(size) != sum*m.page {
		return malformed(image, "it has %d bytes, and by %s there are %d", size, name, sum*m.page)
	}
	return nil
}

// count adds the pages that a process takes at least. Of a mapping that it has in common with its parent
// CRIU lets them share the pages that are equal (criu/mem.c, check_cow_vmas): in the best case all.
func (m *memory) count(s, parent *space) {
	j := 0
	for i, e := range s.vmas {
		if e.GetFlags()&mapHuge != 0 || e.GetStatus()&(areaVDSO|areaVVAR) != 0 {
			continue // not the container's memory
		}
		n := s.pages[i]
		if parent != nil && parent.mm.GetExeFileId() == s.mm.GetExeFileId() {
			for j < len(parent.vmas) && parent.vmas[j].GetStart() < e.GetStart() {
				j++
			}
			if j < len(parent.vmas) && parent.vmas[j].GetStart() == e.GetStart() && parent.vmas[j].GetEnd() == e.GetEnd() {
				n -= min(n, parent.pages[j])
			}
		}
		m.pages += n
	}
}

// hasPages says whether a pagemap has its pages in the image with this number.
func (m *memory) hasPages(digits string) bool {
	n, err := strconv.ParseUint(digits, 10, 32)
	return err == nil && m.taken[uint32(n)] != ""
}

// limit compares the memory with what the container may have, so that it is refused now and not
// killed by the kernel during the restore.
func (m *memory) limit() {
	r := m.spec.Linux.Resources
	if r == nil || r.Memory == nil || r.Memory.Limit == nil || *r.Memory.Limit <= 0 {
		return
	}
	allowed := *r.Memory.Limit
	if swap := r.Memory.Swap; swap != nil {
		if *swap < 0 {
			return
		}
		allowed = max(allowed, *swap) // memory and swap together
	}
	if m.pages > math.MaxUint64/m.page || m.pages*m.page > uint64(allowed) {
		m.refuse(Finding{
			Check: "memory", Object: "all processes", Field: "memory", Found: fmt.Sprintf("%d bytes", m.pages*m.page), Allowed: fmt.Sprintf("%d bytes", allowed),
			Remedy: "give the container at least the memory limit that it had",
		})
	}
}
