package verify

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// device is a device as a container sees it.
type device struct {
	kind         byte // 'c' or 'b'
	major, minor int64
}

func (d device) String() string { return fmt.Sprintf("%c %d:%d", d.kind, d.major, d.minor) }

// defaultDevices are those that runc makes in every container (runc: specconv/spec_linux.go, AllowedDevices).
var defaultDevices = map[device]string{
	{'c', 1, 3}: "/dev/null", {'c', 1, 8}: "/dev/random", {'c', 1, 7}: "/dev/full",
	{'c', 5, 0}: "/dev/tty", {'c', 1, 5}: "/dev/zero", {'c', 1, 9}: "/dev/urandom",
}

// devices returns the devices that runc makes for the spec.
func devices(spec *specs.Spec) map[device]place.Node {
	out := map[device]place.Node{}
	for d := range defaultDevices {
		out[d] = place.Node{Mode: 0o666}
	}
	for _, d := range spec.Linux.Devices {
		kind := byte('c')
		switch d.Type {
		case "b":
			kind = 'b'
		case "p":
			continue
		}
		a := place.Node{Mode: 0o666}
		if d.FileMode != nil {
			a.Mode = d.FileMode.Perm()
		}
		if d.UID != nil {
			a.UID = *d.UID
		}
		if d.GID != nil {
			a.GID = *d.GID
		}
		out[device{kind, d.Major, d.Minor}] = a
	}
	return out
}
