package verify

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_opts "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// tcpClose is the state of a socket that was never connected (Linux: TCP_CLOSE).
const tcpClose = 7

// inetSocket is a socket of IPv4 or IPv6, with its addresses. Those of IPv4 are that also in a socket of IPv6.
type inetSocket struct {
	file  *openFile
	entry *sk_inet.InetSkEntry
	ends
}

// ends are the addresses of a socket's two ends.
type ends struct{ local, remote netip.AddrPort }

// connected says whether it is a TCP connection to CRIU (criu/sk-inet.c, tcp_connection).
func (s *inetSocket) connected() bool {
	return s.entry.GetProto() == unix.IPPROTO_TCP && s.entry.GetType() == unix.SOCK_STREAM && s.entry.GetDstPort() != 0
}

// connections gives sockets that have an address of the pod that was checkpointed the one of the new pod. Where only
// local connections are to come back, which are those of which both ends are in the checkpoint, it makes of all others
// what CRIU makes of one that it is to close: a socket that is connected to nothing and shut down (criu/sk-tcp.c,
// restore_one_tcp). An end without the other, in another container of the pod or nowhere any longer, is of no use.
func (o *openFiles) connections() error {
	if o.rules.Network == nil {
		return nil
	}
	var (
		sockets   []*inetSocket
		connected = map[ends][]*inetSocket{}
	)
	for _, f := range o.files {
		if f.kind != fdinfo.FdTypes_INETSK {
			continue
		}
		s := &inetSocket{file: f, entry: f.GetIsk(), ends: endsOf(f.GetIsk())}
		if sockets = append(sockets, s); s.connected() {
			connected[s.ends] = append(connected[s.ends], s)
		}
	}
	moved := o.rules.Network.moved(sockets)
	var lost []string
	for _, s := range sockets {
		if err := o.step(1); err != nil {
			return err
		}
		local, ok := moved.to(s.local.Addr())
		switch {
		case s.connected() && !o.rules.LocalTCP:
			// CRIU closes it, or restores it as it was.
		case s.connected():
			remote, also := moved.to(s.remote.Addr())
			if ok && also && o.isPair(connected, s) {
				o.move(s, local, remote)
			} else {
				o.close(s)
			}
		case s.entry.GetIpOpts().GetFreebind():
			// It may be bound to what no network has.
		case !ok:
			lost = append(lost, fmt.Sprintf("%s to %s", s.file, s.local))
		default:
			// That a process sends to its own pod is no connection of two ends: only UDP has it.
			remote, ok := moved.to(s.remote.Addr())
			if !ok {
				remote = s.remote.Addr()
			}
			o.move(s, local, remote)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return fmt.Errorf("sockets are bound to addresses of the pod that was checkpointed, "+
		"for which the new pod has none that must be meant: %s: "+
		"restore it in a pod with one address of that family, or let the program bind to all addresses: %w",
		printable(strings.Join(lost[:min(len(lost), maxShown)], ", ")), errdefs.ErrFailedPrecondition)
}

// isPair says whether the other end of a connection is in the checkpoint, and the state of both.
func (o *openFiles) isPair(connected map[ends][]*inetSocket, s *inetSocket) bool {
	others := connected[ends{s.remote, s.local}]
	return len(connected[s.ends]) == 1 && len(others) == 1 && others[0] != s && o.hasStream(s) && o.hasStream(others[0])
}

// hasStream says whether the state of a connection is in the checkpoint. A CRIU that was to close connections has not
// written it.
func (o *openFiles) hasStream(s *inetSocket) bool {
	_, ok := o.images.Size(streamImage(s.entry.GetIno()))
	return ok
}

// move gives a socket other addresses.
func (o *openFiles) move(s *inetSocket, local, remote netip.Addr) {
	if local == s.local.Addr() && remote == s.remote.Addr() {
		return
	}
	e := o.editFile(s.file).GetIsk()
	e.SrcAddr, e.DstAddr = addressWords(local, e, len(e.SrcAddr)), addressWords(remote, e, len(e.DstAddr))
}

// close makes of a connection a socket that was never connected, and is shut down.
func (o *openFiles) close(s *inetSocket) {
	e := o.editFile(s.file).GetIsk()
	e.State, e.SrcPort, e.DstPort = proto.Uint32(tcpClose), proto.Uint32(0), proto.Uint32(0)
	e.SrcAddr, e.DstAddr = make([]uint32, len(e.SrcAddr)), make([]uint32, len(e.DstAddr))
	e.Shutdown, e.Ifname = sk_opts.SkShutdown_BOTH.Enum(), nil
}

// endsOf returns the addresses of a socket, which has been checked.
func endsOf(e *sk_inet.InetSkEntry) ends {
	of := func(words []uint32, port uint32) netip.AddrPort {
		var b [16]byte
		for i, w := range words[:min(len(words), 4)] {
			binary.NativeEndian.PutUint32(b[4*i:], w)
		}
		if e.GetFamily() == unix.AF_INET {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), uint16(port))
		}
		return netip.AddrPortFrom(netip.AddrFrom16(b).Unmap(), uint16(port))
	}
	return ends{of(e.GetSrcAddr(), e.GetSrcPort()), of(e.GetDstAddr(), e.GetDstPort())}
}

// addressWords returns an address as the image of a socket has it, in as many words as it had.
func addressWords(a netip.Addr, e *sk_inet.InetSkEntry, words int) []uint32 {
	b := a.As16()
	from := b[:]
	if e.GetFamily() == unix.AF_INET {
		from = b[12:]
	}
	out := make([]uint32, words)
	for i := range len(from) / 4 {
		out[i] = binary.NativeEndian.Uint32(from[4*i:])
	}
	return out
}

// streamImage is the image with the state of a connection.
func streamImage(inode uint32) string { return fmt.Sprintf("tcp-stream-%x.img", inode) }
