package verify

import "fmt"

// locked compares the memory that cannot be swapped out with the resource limit. CRIU maps it as
// locked while no limit holds for it; the limit itself is compared with the spec elsewhere.
func (m *memory) locked(s *space) {
	var sum uint64
	for _, e := range s.vmas {
		if e.GetFlags()&mapLocked != 0 {
			sum += e.GetEnd() - e.GetStart()
		}
	}
	var limit uint64
	if all := s.process.Core.GetTc().GetRlimits().GetRlimits(); len(all) > memlock {
		limit = all[memlock].GetMax()
	}
	if sum > limit && limit != unlimitedMemory && !m.reachable.has(capIPCLock) {
		m.refuse(Finding{
			Check: "memory", Object: processName(s.process), Field: "locked memory",
			Found: fmt.Sprintf("%d bytes", sum), Allowed: fmt.Sprintf("%d bytes (RLIMIT_MEMLOCK)", limit),
		})
	}
}
