package verify

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_opts "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"
	tcp_stream "github.com/checkpoint-restore/go-criu/v7/crit/images/tcp-stream"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// at are the words of an address in an image of CRIU.
func at(address string) []uint32 {
	b := netip.MustParseAddr(address).AsSlice()
	out := make([]uint32, 0, 4)
	for i := 0; i < len(b); i += 4 {
		out = append(out, binary.NativeEndian.Uint32(b[i:]))
	}
	return out
}

// inet is a socket with these two ends; a remote port is that of a connection.
func inet(id uint32, protocol uint32, local, remote string) *fdinfo.FileEntry {
	l, r := netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
	return criutest.Listener(id, uint32(l.Port()), func(e *sk_inet.InetSkEntry) {
		e.Family, e.Proto = proto.Uint32(unix.AF_INET), &protocol
		if l.Addr().Is6() {
			e.Family = proto.Uint32(unix.AF_INET6)
		}
		e.SrcAddr, e.DstAddr, e.DstPort = at(l.Addr().String()), at(r.Addr().String()), proto.Uint32(uint32(r.Port()))
		if protocol == unix.IPPROTO_UDP {
			e.Type, e.State = proto.Uint32(unix.SOCK_DGRAM), proto.Uint32(tcpClose)
		}
		if r.Port() != 0 {
			e.State = proto.Uint32(1)
		}
	})
}

// shownSocket is a socket as CRIU reads it.
func shownSocket(e *sk_inet.InetSkEntry) string {
	words := func(w []uint32) string {
		var b []byte
		for _, v := range w {
			b = binary.NativeEndian.AppendUint32(b, v)
		}
		a, _ := netip.AddrFromSlice(b)
		return a.String()
	}
	if e.GetState() == tcpClose && e.GetShutdown() == sk_opts.SkShutdown_BOTH && e.GetSrcPort() == 0 && e.GetDstPort() == 0 {
		return "closed"
	}
	return netip.AddrPortFrom(netip.MustParseAddr(words(e.GetSrcAddr())), uint16(e.GetSrcPort())).String() + " " +
		netip.AddrPortFrom(netip.MustParseAddr(words(e.GetDstAddr())), uint16(e.GetDstPort())).String()
}

// TestConnections: 10.0.0.5 and fd00::5 were the old pod's, 10.0.0.9 and fd00::9 are the new one's.
func TestConnections(t *testing.T) {
	const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	network := &Network{
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9"), netip.MustParseAddr("fe80::9")},
		Pod:       []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")},
	}
	onlyIPv4 := &Network{Addresses: network.Addresses[:2], Pod: network.Pod[:1]}
	type socket struct{ protocol, local, remote, want string } // want is empty for one that stays
	kinds := map[string]uint32{"tcp": tcp, "udp": udp}
	zero := proto.Uint32(0)
	stream := &tcp_stream.TcpStreamEntry{InqLen: zero, InqSeq: zero, OutqLen: zero, OutqSeq: zero, OptMask: zero, SndWscale: zero, MssClamp: zero, UnsqLen: zero}
	for name, c := range map[string]struct {
		sockets []socket
		network *Network
		others  bool // all connections may come back as they were
		noState bool
		says    string
	}{
		"listeners": {sockets: []socket{{"tcp", "0.0.0.0:80", "0.0.0.0:0", ""}, {"tcp", "[::]:81", "[::]:0", ""}, {"tcp", "127.0.0.1:82", "0.0.0.0:0", ""}, {"udp", "224.0.0.251:5353", "0.0.0.0:0", ""},
			{"tcp", "10.0.0.5:83", "0.0.0.0:0", "10.0.0.9:83 0.0.0.0:0"}, {"tcp", "[fd00::5]:84", "[::]:0", "[fd00::9]:84 [::]:0"},
			{"tcp", "[::ffff:10.0.0.5]:85", "[::]:0", "[::ffff:10.0.0.9]:85 [::]:0"}}},
		"at an address that stays": {sockets: []socket{{"tcp", "10.0.0.9:80", "0.0.0.0:0", ""}, {"udp", "[fe80::9]:81", "[::]:0", ""}}},
		"UDP": {sockets: []socket{{"udp", "10.0.0.5:40000", "192.0.2.1:53", "10.0.0.9:40000 192.0.2.1:53"}, {"udp", "10.0.0.5:40001", "10.0.0.5:53", "10.0.0.9:40001 10.0.0.9:53"},
			{"udp", "[::ffff:10.0.0.5]:40002", "[::ffff:192.0.2.1]:53", "[::ffff:10.0.0.9]:40002 [::ffff:192.0.2.1]:53"}, {"udp", "127.0.0.1:4", "127.0.0.1:5", ""}}},
		"within the pod": {sockets: []socket{{"tcp", "127.0.0.1:80", "127.0.0.1:40000", ""}, {"tcp", "127.0.0.1:40000", "127.0.0.1:80", ""},
			{"tcp", "[::ffff:10.0.0.5]:81", "[::ffff:10.0.0.5]:40001", "[::ffff:10.0.0.9]:81 [::ffff:10.0.0.9]:40001"}, {"tcp", "10.0.0.5:40001", "10.0.0.5:81", "10.0.0.9:40001 10.0.0.9:81"},
			{"tcp", "[fd00::5]:82", "[::1]:40002", "[fd00::9]:82 [::1]:40002"}, {"tcp", "[::1]:40002", "[fd00::5]:82", "[::1]:40002 [fd00::9]:82"}}},
		"to others": {sockets: []socket{{"tcp", "10.0.0.5:80", "192.0.2.1:40000", "closed"}, {"tcp", "[::ffff:10.0.0.5]:40000", "[::ffff:192.0.2.1]:443", "closed"},
			{"tcp", "127.0.0.1:81", "127.0.0.1:40001", "closed"}, {"tcp", "10.0.0.5:82", "0.0.0.0:0", "10.0.0.9:82 0.0.0.0:0"}}},
		"to itself": {sockets: []socket{{"tcp", "127.0.0.1:80", "127.0.0.1:80", "closed"}}},
		"without its state": {noState: true, sockets: []socket{{"tcp", "127.0.0.1:80", "127.0.0.1:40000", "closed"},
			{"tcp", "127.0.0.1:40000", "127.0.0.1:80", "closed"}}},
		"to nobody's addresses": {sockets: []socket{{"tcp", "192.0.2.1:80", "192.0.2.2:81", "closed"}, {"tcp", "192.0.2.2:81", "192.0.2.1:80", "closed"}}},
		"an end twice": {sockets: []socket{{"tcp", "127.0.0.1:80", "127.0.0.1:81", "closed"}, {"tcp", "127.0.0.1:81", "127.0.0.1:80", "closed"},
			{"tcp", "127.0.0.1:81", "127.0.0.1:80", "closed"}}},
		"all connections": {others: true, sockets: []socket{{"tcp", "10.0.0.5:80", "192.0.2.1:40000", ""}, {"tcp", "10.0.0.5:81", "0.0.0.0:0", "10.0.0.9:81 0.0.0.0:0"}}},
		"two addresses":   {sockets: []socket{{"tcp", "10.0.0.5:80", "0.0.0.0:0", ""}, {"udp", "10.1.0.5:81", "0.0.0.0:0", ""}}, says: "10.0.0.5:80, socket 11 (INETSK) to 10.1.0.5:81"},
		"no address":      {network: onlyIPv4, sockets: []socket{{"tcp", "[fd00::5]:80", "[::]:0", ""}}, says: "[fd00::5]:80"},
		"no address, closed": {network: onlyIPv4, sockets: []socket{{"tcp", "[fd00::5]:80", "[fd00::5]:40000", "closed"},
			{"tcp", "[fd00::5]:40000", "[fd00::5]:80", "closed"}}},
		"another link's":       {sockets: []socket{{"udp", "[fe80::5]:80", "[::]:0", ""}}, says: "[fe80::5]:80"},
		"the node's":           {network: &Network{Addresses: network.Addresses}, sockets: []socket{{"tcp", "10.0.0.5:80", "0.0.0.0:0", ""}}, says: "10.0.0.5:80"},
		"the node's, the same": {network: &Network{Addresses: network.Addresses}, sockets: []socket{{"tcp", "10.0.0.9:80", "0.0.0.0:0", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			var files []*fdinfo.FileEntry
			images := map[string]string{}
			for i, s := range c.sockets {
				f := inet(uint32(10+i), kinds[s.protocol], s.local, s.remote)
				if files = append(files, f); !c.noState {
					images[streamImage(f.GetIsk().GetIno())] = criutest.WithData("TCP_STREAM", stream, "")
				}
			}
			rules := Rules{AcceptTCP: true, LocalTCP: !c.others, Network: network}
			if c.network != nil {
				rules.Network = c.network
			}
			report, err := openFilesOf(t, merged(criutest.Files(files...), images), filesSpec(nil), rules)
			if c.says != "" {
				if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("error %v, want one that says %q", err, c.says)
				}
				return
			}
			if err != nil || report.Total != 0 {
				t.Fatalf("%v, %v", err, report.Err())
			}
			requireSockets(t, report, files, func(i int) string { return c.sockets[i].want })
		})
	}
}

// requireSockets compares the sockets that CRIU is to read with what is wanted; those for which that is empty stay as they are.
func requireSockets(t *testing.T, report *Report, files []*fdinfo.FileEntry, want func(int) string) {
	t.Helper()
	now := map[uint32]*sk_inet.InetSkEntry{}
	if data := report.Replaced[filesImage]; data != nil {
		written := subjectOf(t, map[string]string{filesImage: string(data)}, filesSpec(nil), Rules{})
		all, err := criu.Entries[*fdinfo.FileEntry](written.Images, filesImage, "FILES")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			now[f.GetId()] = f.GetIsk()
		}
	}
	changes := 0
	for i, f := range files {
		before, after := f.GetIsk(), f.GetIsk()
		if now[f.GetId()] != nil {
			after = now[f.GetId()]
		}
		got, wanted := shownSocket(after), want(i)
		if wanted == "" {
			wanted = shownSocket(before)
		} else {
			changes++
		}
		if got != wanted {
			t.Errorf("socket %s: got %s, want %s", shownSocket(before), got, wanted)
		}
	}
	if (changes > 0) != (len(now) > 0) {
		t.Errorf("the image was written anew: %t, want %t", len(now) > 0, changes > 0)
	}
}
