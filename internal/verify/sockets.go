package verify

import (
	"errors"
	"fmt"
	"io"
	"slices"

	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_opts "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"
	tcp_stream "github.com/checkpoint-restore/go-criu/v7/crit/images/tcp-stream"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// lacks refuses what a process would have needed a capability for.
func (o *openFiles) lacks(f *openFile, field, found, capability string) {
	o.refuse(Finding{Check: "files", Object: f.String(), Field: field, Found: found, Allowed: "none, for lack of " + capability})
}

// socketOptions checks options that only some may set; CRIU sets them as root (criu/sockets.c,
// restore_socket_opts). What the kernel lets everybody set is not looked at (Linux: sk_setsockopt).
func (o *openFiles) socketOptions(f *openFile, e *sk_opts.SkOptsEntry, nsID uint32) error {
	network := o.could("CAP_NET_ADMIN") || o.could("CAP_NET_RAW")
	if mark := e.GetSoMark(); mark != 0 && !network {
		o.lacks(f, "SO_MARK", fmt.Sprint(mark), "CAP_NET_ADMIN")
	}
	if p := e.GetSoPriority(); p > 6 && !network {
		o.lacks(f, "SO_PRIORITY", fmt.Sprint(p), "CAP_NET_ADMIN")
	}
	// The kernel gives TCP connections more than SO_SNDBUF allows, by itself. What is in a buffer counts as memory of the container.
	const most = 256 << 20
	if n := max(e.GetSoSndbuf(), e.GetSoRcvbuf()); n > most && !o.could("CAP_NET_ADMIN") {
		o.lacks(f, "buffer", fmt.Sprintf("%d bytes", n), "CAP_NET_ADMIN")
	}
	if len(e.GetSoFilter()) > 4096 { // BPF_MAXINSNS
		return malformed(filesImage, "socket %d: its filter has %d instructions", f.GetId(), len(e.GetSoFilter()))
	}
	// 0: the namespace of the container (criu/sockets.c, set_netns).
	if nsID != 0 && nsID != o.netNS {
		o.refuse(Finding{Check: "files", Object: f.String(), Field: "network namespace", Found: fmt.Sprint(nsID), Allowed: fmt.Sprintf("%d, the container's", o.netNS)})
	}
	return nil
}

// Protocols that CRIU dumps (criu/sk-inet.c, can_dump_ipproto).
var inetProtocols = map[uint32][]uint32{
	unix.SOCK_STREAM: {unix.IPPROTO_IP, unix.IPPROTO_TCP},
	unix.SOCK_DGRAM:  {unix.IPPROTO_IP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6},
}

func (o *openFiles) inetSocket(f *openFile) error {
	e := f.GetIsk()
	want := map[uint32]int{unix.AF_INET: 1, unix.AF_INET6: 4}[e.GetFamily()]
	if want == 0 || len(e.GetSrcAddr()) < want || len(e.GetDstAddr()) < want || len(e.GetSrcAddr()) > 4 || len(e.GetDstAddr()) > 4 ||
		e.GetSrcPort() > 0xffff || e.GetDstPort() > 0xffff {
		return malformed(filesImage, "socket %d: family %d, ports %d and %d", f.GetId(), e.GetFamily(), e.GetSrcPort(), e.GetDstPort())
	}
	if e.GetType() == unix.SOCK_RAW {
		if !o.could("CAP_NET_RAW") {
			o.lacks(f, "type", "a raw socket", "CAP_NET_RAW")
		}
	} else if !slices.Contains(inetProtocols[e.GetType()], e.GetProto()) || e.GetIpOpts().GetRaw() != nil {
		return malformed(filesImage, "socket %d: type %d, protocol %d", f.GetId(), e.GetType(), e.GetProto())
	}
	if err := o.socketOptions(f, e.GetOpts(), e.GetNsId()); err != nil {
		return err
	}
	if err := o.inetOwner(f); err != nil {
		return err
	}
	// What is one to CRIU (criu/sk-inet.c, tcp_connection), whatever the state.
	if e.GetProto() == unix.IPPROTO_TCP && e.GetDstPort() != 0 {
		if e.GetType() != unix.SOCK_STREAM {
			return malformed(filesImage, "socket %d: a TCP connection of type %d", f.GetId(), e.GetType())
		}
		if !o.rules.AcceptTCP {
			o.refuse(Finding{Check: "files", Object: f.String(), Field: "TCP", Found: fmt.Sprintf("a connection to port %d", e.GetDstPort()),
				Allowed: "no connection: the other end does not know of the restore",
				Remedy:  `set tcp_connections = "local" or "close" in the node's configuration, or close connections before the checkpoint`})
			return nil
		}
		if err := o.tcpStream(e.GetIno()); err != nil {
			return err
		}
	}
	o.port(f, e)
	return nil
}

// inetUID is the user of a socket (CRIU 4.3: images/sk-inet.proto, uid).
const inetUID = 21

// inetOwner checks the user of a socket, by whom a firewall may judge what it sends, and the kernel who may share its port.
func (o *openFiles) inetOwner(f *openFile) error {
	owners, err := criu.Varints(f.GetIsk(), inetUID)
	if err != nil {
		return malformed(filesImage, "socket %d: %s", f.GetId(), err)
	}
	for _, uid := range owners {
		if user := o.spec.Process.User; uint32(uid) != user.UID && !o.could("CAP_CHOWN") && !o.could("CAP_SETUID") {
			o.refuse(Finding{Check: "files", Object: f.String(), Field: "owner", Found: fmt.Sprint(uid), Allowed: fmt.Sprint(user.UID),
				Remedy: "set runAsUser as in the pod that was checkpointed"})
		}
	}
	return nil
}

// tcpStream checks the state of a connection. CRIU does not read it if it is to close the connection.
func (o *openFiles) tcpStream(inode uint32) error {
	image := streamImage(inode)
	if _, ok := o.images.Size(image); !ok {
		return nil
	}
	return o.images.EachWithData(image, "TCP_STREAM", func(i int, entry []byte, rest io.Reader) error {
		e := &tcp_stream.TcpStreamEntry{}
		if err := criu.Decode(entry, e); err != nil {
			return err
		}
		if i > 0 || e.GetUnsqLen() > e.GetOutqLen() {
			return errors.New("it is not of one connection, or of one that holds more than it is to send")
		}
		if err := skip(rest, e.GetInqLen()); err != nil {
			return err
		}
		return skip(rest, e.GetOutqLen())
	})
}

// port refuses ports to which CRIU could bind and a process of the pod could not.
func (o *openFiles) port(f *openFile, e *sk_inet.InetSkEntry) {
	port := e.GetSrcPort()
	// Raw and ICMP sockets have an identifier there.
	if port == 0 || e.GetType() == unix.SOCK_RAW || e.GetProto() == unix.IPPROTO_ICMP || e.GetProto() == unix.IPPROTO_ICMPV6 || o.could("CAP_NET_BIND_SERVICE") {
		return
	}
	const usual = 1024 // PROT_SOCK
	if port >= usual {
		return
	}
	if first := o.firstPort(); uint64(port) < first {
		o.lacks(f, "port", fmt.Sprint(port), "CAP_NET_BIND_SERVICE")
	}
}

// firstPort is the first port that anybody may bind to in the pod's network. containerd sets it on the sandbox, so
// that it is not in the spec.
func (o *openFiles) firstPort() uint64 {
	for _, ns := range o.spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace && ns.Path != "" {
			if first, err := criu.FirstUnprivilegedPort(ns.Path); err == nil {
				return first
			}
		}
	}
	return 1024
}
