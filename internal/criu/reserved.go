package criu

import (
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"golang.org/x/sys/unix"
)

// private are the kinds of mappings that CRIU fills from the pages of the process (criu/include/image.h,
// VMA_FILE_PRIVATE, VMA_ANON_PRIVATE).
const private = 1<<6 | 1<<9

// Reserved returns how much address space processes have in private mappings that nobody may write to: the largest of
// them, and all of the process that has most. Databases and garbage collectors reserve far more so than there is
// memory, which the kernel does not count; but it does when CRIU maps it writable, as for every lazy restore
// (criu/mem.c, premap_private_vma). What is mapped with MAP_NORESERVE it counts never.
func (s *Images) Reserved() (largest, all uint64, err error) {
	processes, err := s.Processes()
	if err != nil {
		return 0, 0, err
	}
	for _, p := range processes {
		if p.Dead() {
			continue
		}
		m, err := One[*mm.MmEntry](s, fmt.Sprintf("mm-%d.img", p.GetPid()), "MM")
		if err != nil {
			return 0, 0, err
		}
		var sum uint64
		for _, e := range m.GetVmas() {
			if isReserved(e) {
				size := e.GetEnd() - e.GetStart()
				largest, sum = max(largest, size), sum+size
			}
		}
		all = max(all, sum)
	}
	return largest, all, nil
}

func isReserved(e *vma.VmaEntry) bool {
	return e.GetStatus()&private != 0 && e.GetProt()&unix.PROT_WRITE == 0 && e.GetFlags()&unix.MAP_NORESERVE == 0 &&
		e.GetEnd() > e.GetStart()
}
