package verify

import (
	"fmt"
	"time"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timens"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// maxUptime is how long a machine may have run, in seconds: a hundred years. The kernel takes
// offsets up to somewhat more (kernel/time/namespace.c).
const maxUptime = 100 * 365 * 24 * 60 * 60

// clocks checks from where the clocks of the container go on. CRIU always makes a time namespace for
// it, with offsets of the monotonic and of the boot clock such that they go on where they were
// (criu/timens.c, prepare_timens). This concerns the container only. A number of nanoseconds
// out of range would keep CRIU busy.
func (v *verifier) clocks(inv *inventory.InventoryEntry, ids *criu_core.TaskKobjIdsEntry) error {
	var id uint32
	if ids.GetTimeNsId() != inv.GetRootIds().GetTimeNsId() {
		id = ids.GetTimeNsId()
	}
	name := fmt.Sprintf("timens-%d.img", id)
	if _, ok := v.images.Size(name); !ok && id == 0 {
		return nil // no clocks were dumped: they are the node's
	}
	e, err := criu.One[*timens.TimensEntry](v.images, name, "TIMENS")
	if err != nil {
		return err
	}
	for _, clock := range []*timens.Timespec{e.GetMonotonic(), e.GetBoottime()} {
		if clock.GetTvSec() > maxUptime || clock.GetTvNsec() >= uint64(time.Second) {
			return malformed(name, "a clock stands at %d seconds and %d nanoseconds", clock.GetTvSec(), clock.GetTvNsec())
		}
	}
	return nil
}
