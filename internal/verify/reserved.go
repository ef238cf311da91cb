package verify

import (
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"golang.org/x/sys/unix"
)

// Reserved is how much address space processes have in private mappings that nobody may write to, in bytes. Databases
// and garbage collectors reserve far more so than there is memory, which the kernel does not count; but it does when CRIU
// maps it writable, as for every lazy restore (criu/mem.c, premap_private_vma). What is mapped with MAP_NORESERVE it
// counts never.
type Reserved struct {
	// Largest is the largest of these mappings.
	Largest uint64
	// All is what the process has of them that has most.
	All uint64
}

// add adds what a process has reserved.
func (r *Reserved) add(mappings []*vma.VmaEntry) {
	var all uint64
	for _, e := range mappings {
		if e.GetStatus()&(areaFilePrivate|areaAnonPrivate) == 0 || e.GetProt()&unix.PROT_WRITE != 0 ||
			e.GetFlags()&unix.MAP_NORESERVE != 0 {
			continue
		}
		size := e.GetEnd() - e.GetStart()
		r.Largest, all = max(r.Largest, size), all+size
	}
	r.All = max(r.All, all)
}
