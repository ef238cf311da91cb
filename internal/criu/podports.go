package criu

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/namespace"
)

// FirstUnprivilegedPort returns the first port that anybody may bind to in the network namespace at path.
func FirstUnprivilegedPort(path string) (first uint64, err error) {
	err = namespace.Within(path, unix.CLONE_NEWNET, func() error {
		const name = "net/ipv4/ip_unprivileged_port_start"
		v, err := sysctl(name)
		if err == nil && len(v) != 1 {
			err = fmt.Errorf("sysctl %s has %d values, not one", name, len(v))
		}
		if err == nil {
			first = v[0]
		}
		return err
	})
	return first, err
}
