package podnet

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/namespace"
)

// Addresses returns the addresses of the network namespace at path, and with an empty path those of the node.
func Addresses(path string) (all []netip.Addr, err error) {
	read := func() error {
		found, err := net.InterfaceAddrs()
		if err != nil {
			return fmt.Errorf("addresses: %w", err)
		}
		for _, a := range found {
			if p, ok := a.(*net.IPNet); ok {
				if a, ok := netip.AddrFromSlice(p.IP); ok {
					all = append(all, a.Unmap())
				}
			}
		}
		return nil
	}
	if path == "" {
		err = read()
		return all, err
	}
	err = namespace.Within(path, unix.CLONE_NEWNET, read)
	return all, err
}
