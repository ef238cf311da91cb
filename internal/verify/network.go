package verify

import (
	"net/netip"
	"slices"
)

// Network is the network of the new pod.
type Network struct {
	// Addresses are those that it has.
	Addresses []netip.Addr
	// Pod are those by which the pod is known. Of a family the first one counts.
	Pod []netip.Addr
}

// moves says which address of the new pod's stands for one of the pod that was checkpointed. That one is known by what
// its sockets were bound to: a process can bind only to addresses of its network.
type moves struct {
	*Network
	// was are the addresses that the new network has not, of IPv4 and of IPv6.
	was [2][]netip.Addr
}

// moved finds out which addresses the pod had that was checkpointed.
func (n *Network) moved(sockets []*inetSocket) *moves {
	m := &moves{Network: n}
	for _, s := range sockets {
		a := s.local.Addr()
		if s.entry.GetIpOpts().GetFreebind() || m.stays(a) || a.IsLinkLocalUnicast() {
			continue
		}
		if was := &m.was[family(a)]; !slices.Contains(*was, a) {
			*was = append(*was, a)
		}
	}
	return m
}

// stays says whether an address means the same in every pod, or the new one has it as well.
func (m *moves) stays(a netip.Addr) bool {
	everybody := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == everybody || slices.Contains(m.Addresses, a)
}

// to returns what stands for an address, which is itself if the pod that was checkpointed did not have it. It is not
// known where that pod had several, or the new one has none.
func (m *moves) to(a netip.Addr) (_ netip.Addr, known bool) {
	if m.stays(a) {
		return a, true
	}
	was := m.was[family(a)]
	if len(was) != 1 || was[0] != a {
		return a, false
	}
	for _, pod := range m.Pod {
		if family(pod) == family(a) {
			return pod, true
		}
	}
	return a, false
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}
