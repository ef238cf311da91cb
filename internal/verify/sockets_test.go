package verify

import (
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	packet_sock "github.com/checkpoint-restore/go-criu/v7/crit/images/packet-sock"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_netlink "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-netlink"
	sk_packet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-packet"
	sk_unix "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-unix"
	tcp_stream "github.com/checkpoint-restore/go-criu/v7/crit/images/tcp-stream"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

func TestInetSockets(t *testing.T) {
	tcp := func(port uint32, change ...func(*sk_inet.InetSkEntry)) []*fdinfo.FileEntry {
		return []*fdinfo.FileEntry{criutest.Listener(9, port, change...)}
	}
	kind := func(family, of, protocol uint32) func(*sk_inet.InetSkEntry) {
		return func(e *sk_inet.InetSkEntry) {
			e.Family, e.Type, e.Proto, e.State = &family, &of, &protocol, proto.Uint32(7)
			if family == unix.AF_INET6 {
				e.SrcAddr, e.DstAddr = make([]uint32, 4), make([]uint32, 4)
			}
		}
	}
	connected := func(e *sk_inet.InetSkEntry) { e.State, e.DstPort = proto.Uint32(1), proto.Uint32(443) }
	none := func(s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{} }
	unprivileged := func(s *specs.Spec) {
		none(s)
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/proc/self/ns/none"}}
	}
	stream := func(in, out uint32, data string) map[string]string {
		zero := proto.Uint32(0)
		return map[string]string{"tcp-stream-2331.img": criutest.WithData("TCP_STREAM", &tcp_stream.TcpStreamEntry{
			InqLen: &in, InqSeq: zero, OutqLen: &out, OutqSeq: zero, OptMask: zero, SndWscale: zero, MssClamp: zero, UnsqLen: zero}, data)}
	}
	testFiles(t, map[string]filesCase{
		"listens":          {files: tcp(8080), spec: none},
		"IPv6":             {files: tcp(8080, kind(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP)), spec: none},
		"UDP":              {files: tcp(8080, kind(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP)), spec: none},
		"connected UDP":    {files: tcp(8080, kind(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP), connected), spec: none},
		"ping":             {files: tcp(80, kind(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)), spec: none},
		"closed":           {files: tcp(0, func(e *sk_inet.InetSkEntry) { e.State = proto.Uint32(7) }), spec: none},
		"raw":              {files: tcp(0, kind(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP))},
		"raw, not allowed": {files: tcp(0, kind(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)), spec: withoutCaps("CAP_NET_RAW"), finds: "CAP_NET_RAW"},
		"raw, a user": {files: tcp(0, kind(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)), finds: "CAP_NET_RAW",
			spec: func(s *specs.Spec) { s.Process.User.UID, s.Process.NoNewPrivileges = 1000, true }},
		"owned by the user":     {files: tcp(8080, func(e *sk_inet.InetSkEntry) { criutest.Later(e, inetUID, 0) }), spec: none},
		"owned by another":      {files: tcp(8080, func(e *sk_inet.InetSkEntry) { criutest.Later(e, inetUID, 1337) }), spec: none, finds: "owner"},
		"owned, CAP_CHOWN":      {files: tcp(8080, func(e *sk_inet.InetSkEntry) { criutest.Later(e, inetUID, 1337) })},
		"SCTP":                  {files: tcp(8080, kind(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)), invalid: "protocol 132"},
		"packet type":           {files: tcp(8080, kind(unix.AF_INET, unix.SOCK_SEQPACKET, unix.IPPROTO_TCP)), invalid: "type 5"},
		"other family":          {files: tcp(8080, kind(unix.AF_VSOCK, unix.SOCK_STREAM, 0)), invalid: "family 40"},
		"short address":         {files: tcp(8080, func(e *sk_inet.InetSkEntry) { e.Family = proto.Uint32(unix.AF_INET6) }), invalid: "family 10"},
		"raw options":           {files: tcp(8080, func(e *sk_inet.InetSkEntry) { e.IpOpts.Raw = &sk_inet.IpOptsRawEntry{} }), invalid: "type 1"},
		"a port too high":       {files: tcp(1 << 16), invalid: "ports 65536"},
		"low port":              {files: tcp(80)},
		"low port, not allowed": {files: tcp(80), spec: unprivileged, finds: "CAP_NET_BIND_SERVICE"},
		"connection":            {files: tcp(8080, connected), finds: "a connection to port 443"},
		"connection, closed":    {files: tcp(8080, connected), rules: Rules{AcceptTCP: true}},
		"connection, restored":  {files: tcp(8080, connected), rules: Rules{AcceptTCP: true}, images: stream(2, 3, "inout")},
		"connection, cut off":   {files: tcp(8080, connected), rules: Rules{AcceptTCP: true}, images: stream(2, 3, "in"), invalid: "ends within"},
		"raw connection":        {files: tcp(0, kind(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP), connected), invalid: "a TCP connection of type 3"},
		"mark":                  {files: tcp(8080, func(e *sk_inet.InetSkEntry) { e.Opts.SoMark = proto.Uint32(7) }), spec: none, finds: "SO_MARK"},
		"mark, allowed":         {files: tcp(8080, func(e *sk_inet.InetSkEntry) { e.Opts.SoMark = proto.Uint32(7) })},
		"priority":              {files: tcp(8080, func(e *sk_inet.InetSkEntry) { e.Opts.SoPriority = proto.Uint32(6) }), spec: none},
		"high priority":         {files: tcp(8080, func(e *sk_inet.InetSkEntry) { e.Opts.SoPriority = proto.Uint32(7) }), spec: none, finds: "SO_PRIORITY"},
		"large buffer":          {files: tcp(8080, func(e *sk_inet.InetSkEntry) { e.Opts.SoSndbuf = proto.Uint32(1 << 30) }), finds: "buffer"},
		"large buffer, allowed": {files: tcp(8080, func(e *sk_inet.InetSkEntry) { e.Opts.SoSndbuf = proto.Uint32(1 << 30) }), spec: func(s *specs.Spec) { withCaps(s, "CAP_NET_ADMIN") }},
		"filter":                {files: tcp(8080, func(e *sk_inet.InetSkEntry) { e.Opts.SoFilter = make([]uint64, 4) })},
		"endless filter":        {files: tcp(8080, func(e *sk_inet.InetSkEntry) { e.Opts.SoFilter = make([]uint64, 65538) }), invalid: "65538 instructions"},
		"another network":       {files: tcp(8080, func(e *sk_inet.InetSkEntry) { e.NsId = proto.Uint32(1) }), finds: "network namespace"},
		"the only network":      {files: tcp(8080, func(e *sk_inet.InetSkEntry) { e.NsId = nil })},
		"another's signals": {files: tcp(8080, func(e *sk_inet.InetSkEntry) {
			e.Fown = &fown.FownEntry{Uid: proto.Uint32(0), Euid: proto.Uint32(0), Signum: proto.Uint32(9), PidType: proto.Uint32(1), Pid: proto.Uint32(7)}
		}), finds: "process 7"},
	})
}

// TestUnprivilegedPorts: which port is a low one is said by the network namespace, here the node's own.
func TestUnprivilegedPorts(t *testing.T) {
	report, err := openFilesOf(t, criutest.Files(criutest.Listener(9, 80)), filesSpec(func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{}
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: ownNetwork(t, 80)}}
	}), Rules{})
	if err != nil || report.Total != 0 {
		t.Errorf("refused where anybody may bind to the port: %v, %v", err, report.Err())
	}
	report, err = openFilesOf(t, criutest.Files(criutest.Listener(9, 80)), filesSpec(func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{}
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: ownNetwork(t, 81)}}
	}), Rules{})
	if err != nil || report.Total != 1 {
		t.Errorf("%d findings, want one: %v", report.Total, err)
	}
}

func TestKernelSockets(t *testing.T) {
	netlink := func(protocol, state, groups uint32) []*fdinfo.FileEntry {
		zero := proto.Uint32(0)
		e := &sk_netlink.NetlinkSkEntry{Id: proto.Uint32(9), Ino: proto.Uint32(1), Protocol: &protocol, State: &state, Flags: zero, Portid: proto.Uint32(1), DstPortid: zero, DstGroup: zero,
			Fown: criutest.NoOwner(), Opts: criutest.SocketOptions(), NsId: proto.Uint32(2)}
		if groups != 0 {
			e.Groups = []uint32{groups}
		}
		return []*fdinfo.FileEntry{{Type: fdinfo.FdTypes_NETLINKSK.Enum(), Id: proto.Uint32(9), Nlsk: e}}
	}
	zero, no := proto.Uint32(0), proto.Bool(false)
	packet := []*fdinfo.FileEntry{{Type: fdinfo.FdTypes_PACKETSK.Enum(), Id: proto.Uint32(9), Psk: &packet_sock.PacketSockEntry{
		Id: proto.Uint32(9), Type: proto.Uint32(3), Protocol: proto.Uint32(768), Flags: zero, Ifindex: zero, Fown: criutest.NoOwner(), Opts: criutest.SocketOptions(),
		Version: zero, Reserve: zero, AuxData: no, OrigDev: no, VnetHdr: no, Loss: no, Timestamp: zero, CopyThresh: zero, NsId: proto.Uint32(2)}}}
	testFiles(t, map[string]filesCase{
		"routes":               {files: netlink(unix.NETLINK_ROUTE, 7, 1)},
		"multicast routes":     {files: netlink(unix.NETLINK_ROUTE, 7, 1<<29), finds: "CAP_NET_ADMIN"},
		"families":             {files: netlink(unix.NETLINK_GENERIC, 7, 1<<15)},
		"dropped packets":      {files: netlink(unix.NETLINK_GENERIC, 7, 1<<4), finds: "CAP_NET_ADMIN"},
		"dropped, allowed":     {files: netlink(unix.NETLINK_GENERIC, 7, 1<<4), spec: func(s *specs.Spec) { withCaps(s, "CAP_NET_ADMIN") }},
		"audit":                {files: netlink(unix.NETLINK_AUDIT, 7, 0)},
		"audit's messages":     {files: netlink(unix.NETLINK_AUDIT, 7, 1), finds: "CAP_NET_ADMIN"},
		"audit, allowed":       {files: netlink(unix.NETLINK_AUDIT, 7, 1), spec: func(s *specs.Spec) { withCaps(s, "CAP_NET_ADMIN") }},
		"sends to a group":     {files: netlink(unix.NETLINK_ROUTE, 1, 0), finds: "connected"},
		"packets":              {files: packet},
		"packets, not allowed": {files: packet, spec: withoutCaps("CAP_NET_RAW"), finds: "CAP_NET_RAW"},
	})
}

func TestUnixSockets(t *testing.T) {
	one := func(name string, change ...func(*sk_unix.UnixSkEntry)) []*fdinfo.FileEntry {
		return []*fdinfo.FileEntry{criutest.UnixSocket(9, 0, name, change...)}
	}
	pair := func(change ...func(*sk_unix.UnixSkEntry)) []*fdinfo.FileEntry {
		return []*fdinfo.FileEntry{criutest.UnixSocket(9, 10, "", change...), criutest.UnixSocket(10, 9, "")}
	}
	datagram := func(e *sk_unix.UnixSkEntry) { e.Type, e.State = proto.Uint32(unix.SOCK_DGRAM), proto.Uint32(7) }
	dir := func(dir string) func(*sk_unix.UnixSkEntry) {
		return func(e *sk_unix.UnixSkEntry) { e.NameDir = &dir }
	}
	of := func(uid, gid uint32) func(*sk_unix.UnixSkEntry) {
		return func(e *sk_unix.UnixSkEntry) { e.FilePerms.Uid, e.FilePerms.Gid = &uid, &gid }
	}
	user := func(s *specs.Spec) {
		s.Process.User, s.Process.NoNewPrivileges = specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{3000}}, true
		s.Process.Capabilities.Ambient = nil
	}
	message := func(socket, length, kind uint32, data string, files ...uint32) map[string]string {
		e := &sk_packet.SkPacketEntry{IdFor: &socket, Length: &length}
		if kind != 0 {
			e.Scm = []*sk_packet.ScmEntry{{Type: &kind, Rights: files}}
		}
		return map[string]string{"sk-queues.img": criutest.WithData("SK_QUEUES", e, data)}
	}
	inFlight := criutest.Files(pair()...)
	// A file that nothing but the message has.
	inFlight["files.img"] += criutest.WithData("FILES", criutest.UnixSocket(11, 0, "\x00flight"))[8:]
	testFiles(t, map[string]filesCase{
		"at a path":                 {files: one("/run/a.sock")},
		"at a path with NUL":        {files: one("/run/a.sock\x00")},
		"at a relative path":        {files: one("a.sock", dir("/run"))},
		"as it was written":         {files: one("/var/../run//./a.sock")},
		"abstract":                  {files: one("\x00a\x00b")},
		"none":                      {files: one("", datagram)},
		"pair":                      {files: pair()},
		"pair of packets":           {files: []*fdinfo.FileEntry{criutest.UnixSocket(9, 10, "", datagram), criutest.UnixSocket(10, 9, "", datagram)}},
		"in the queue":              {files: []*fdinfo.FileEntry{criutest.UnixSocket(9, 10, ""), criutest.UnixSocket(10, 0, "/a")}},
		"passes credentials":        {files: one("/a", func(e *sk_unix.UnixSkEntry) { e.Opts.SoPasscred = proto.Bool(true) })},
		"deleted":                   {files: one("/a", func(e *sk_unix.UnixSkEntry) { e.Deleted = proto.Bool(true) })},
		"external":                  {files: one("/run/docker.sock", func(e *sk_unix.UnixSkEntry) { e.Uflags = proto.Uint32(1) }), finds: "an external socket"},
		"CRIU's":                    {files: one("", func(e *sk_unix.UnixSkEntry) { e.Uflags = proto.Uint32(2) }), finds: "an external socket"},
		"a plugin's":                {files: one("", func(e *sk_unix.UnixSkEntry) { e.Uflags = proto.Uint32(4) }), finds: "an external socket"},
		"another network":           {files: one("\x00a", func(e *sk_unix.UnixSkEntry) { e.NsId = proto.Uint32(1) }), finds: "network namespace"},
		"no inode":                  {files: one("", func(e *sk_unix.UnixSkEntry) { e.Ino = proto.Uint32(0) }), invalid: "type 1"},
		"no type":                   {files: one("", func(e *sk_unix.UnixSkEntry) { e.Type = proto.Uint32(3) }), invalid: "type 3"},
		"no state":                  {files: one("", func(e *sk_unix.UnixSkEntry) { e.State = proto.Uint32(2) }), invalid: "state 2"},
		"set-user-ID":               {files: one("/a", func(e *sk_unix.UnixSkEntry) { e.FilePerms.Mode = proto.Uint32(0o144755) }), invalid: "mode 0144755"},
		"a user's":                  {files: one("/a", of(1000, 2000)), spec: user},
		"of the pod's other group":  {files: one("/a", of(1000, 3000)), spec: user},
		"root's, of a user":         {files: one("/a", of(0, 2000)), spec: user, finds: "owner: found 0, allowed 1000"},
		"of a foreign group":        {files: one("/a", of(1000, 0)), spec: user, finds: "group: found 0, allowed 2000, 3000"},
		"given away":                {files: one("/a", of(4711, 4712))},
		"no mount":                  {files: one("/a", func(e *sk_unix.UnixSkEntry) { e.MntId = proto.Int32(77) }), invalid: "in no mount"},
		"no directory":              {files: one("a.sock"), invalid: "in directory"},
		"relative directory":        {files: one("a.sock", dir("run")), invalid: "in directory"},
		"two directories":           {files: one("/a.sock", dir("/run")), invalid: "in directory"},
		"too long":                  {files: one("/" + string(make([]byte, 108))), invalid: "109 bytes"},
		"NUL in the name":           {files: one("/a\x00b"), invalid: "in directory"},
		"through procfs":            {files: one("/run/../proc/self/fd/9/a"), finds: "outside procfs"},
		"in procfs":                 {files: one("a", dir("/proc/1/root/run")), finds: "outside procfs"},
		"other end missing":         {files: []*fdinfo.FileEntry{criutest.UnixSocket(9, 10, "")}, invalid: "inode 9010, is missing"},
		"other end of another type": {files: pair(datagram), invalid: "is missing"},
		"nothing to connect to":     {files: []*fdinfo.FileEntry{criutest.UnixSocket(9, 10, ""), criutest.UnixSocket(10, 0, "")}, invalid: "can not be connected"},
		"does not listen":           {files: []*fdinfo.FileEntry{criutest.UnixSocket(9, 10, ""), criutest.UnixSocket(10, 0, "/a", func(e *sk_unix.UnixSkEntry) { e.State = proto.Uint32(1) })}, invalid: "can not be connected"},
		"an inode twice":            {files: []*fdinfo.FileEntry{criutest.UnixSocket(9, 0, "/a"), criutest.UnixSocket(10, 0, "/b", func(e *sk_unix.UnixSkEntry) { e.Ino = proto.Uint32(9009) })}, invalid: "two sockets with inode 9009"},
		"nobody's":                  {files: pair(), images: map[string]string{"files.img": inFlight["files.img"]}, invalid: "no process has file 11"},
		"message":                   {files: pair(), images: message(9, 4, 0, "ping")},
		"message, cut off":          {files: pair(), images: message(9, 40, 0, "ping"), invalid: "ends within"},
		"file in flight":            {files: pair(), images: merged(message(9, 4, unix.SCM_RIGHTS, "ping", 11), map[string]string{"files.img": inFlight["files.img"]})},
		"no file in flight":         {files: pair(), images: message(9, 4, unix.SCM_RIGHTS, "ping", 77), invalid: "there is no file 77"},
		"forged sender":             {files: pair(), images: message(9, 4, unix.SCM_CREDENTIALS, "ping"), invalid: "control message of type 2"},
		"to no socket":              {files: pair(), images: message(4, 4, 0, "ping"), invalid: "there is no socket 4"},
	})
}
