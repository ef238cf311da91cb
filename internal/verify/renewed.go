package verify

import (
	"errors"
	"path"
	"strings"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// current is the link by which kubelet's volumes of ConfigMaps, Secrets and tokens are read: it leads to a directory
// that kubelet makes anew for each pod, and at each change (Kubernetes: pkg/volume/util/atomic_writer.go).
const current = "..data"

// renewed says where something is now that was in such a directory. The kernel's name for it has the directory in it,
// by which CRIU would not find it in another pod. It is not ok if that is where it was, or nothing stands for it.
func (c *container) renewed(p place.Place) (now place.Place, ok bool) {
	first, rest, _ := strings.Cut(p.Rest, "/")
	if p.Mount.Kind != place.Volume || p.Covered() || !isVersion(first) {
		return p, false
	}
	if _, err := (place.Place{Mount: p.Mount, Was: p.Mount, Rest: first}).Stat(); !errors.Is(err, place.ErrAbsent) {
		return p, false
	}
	end, err := c.table.Resolve(p.Mount.At + "/" + current)
	if err != nil || path.Dir(end) != p.Mount.At || !isVersion(path.Base(end)) {
		return p, false
	}
	name := path.Join(end, rest)
	if now = c.table.At(name); now.Mount != p.Mount || c.table.Link(name) != "" {
		return p, false
	}
	return now, true
}

// isVersion says whether it is the name of a directory of kubelet's, which begins with the two dots that no key has.
func isVersion(name string) bool {
	return len(name) > 2 && strings.HasPrefix(name, "..") && name != current
}
