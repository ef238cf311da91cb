package podnet

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/namespace"
)

func TestAddresses(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	nodes, err := Addresses("")
	if err != nil || !slices.Contains(nodes, loopback) {
		t.Errorf("the node's: %v, %v", nodes, err)
	}
	path := newNetwork(t)
	if got, err := Addresses(path); err != nil || len(got) != 0 {
		t.Errorf("of a new network: %v, %v", got, err)
	}
	err = namespace.Within(path, unix.CLONE_NEWNET, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		request, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Addresses(path); err != nil || !slices.Contains(got, loopback) {
		t.Errorf("of a network with a loopback interface: %v, %v", got, err)
	}
	if found, err := net.InterfaceAddrs(); err != nil || len(found) != len(nodes) {
		t.Errorf("this thread's network is another one: %v, %v", found, err)
	}
	if _, err := Addresses(path + "-none"); err == nil {
		t.Error("there is no such network")
	}
}
