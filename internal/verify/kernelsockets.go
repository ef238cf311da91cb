package verify

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// openToAll are the netlink protocols whose groups everybody may listen to (Linux: NL_CFG_F_NONROOT_RECV).
var openToAll = map[uint32]bool{unix.NETLINK_ROUTE: true, unix.NETLINK_GENERIC: true, unix.NETLINK_KOBJECT_UEVENT: true, unix.NETLINK_SELINUX: true}

// netlinkSocket checks a socket to the kernel. To open one is free; what is sent over it is
// checked against the sender as well as the opener (Linux: netlink_capable).
func (o *openFiles) netlinkSocket(f *openFile) error {
	e := f.GetNlsk()
	if err := o.socketOptions(f, e.GetOpts(), e.GetNsId()); err != nil {
		return err
	}
	groups := uint32(0)
	for _, g := range e.GetGroups() {
		groups |= g
	}
	if groups != 0 && !openToAll[e.GetProtocol()] && !o.could("CAP_NET_ADMIN") {
		o.lacks(f, "groups", fmt.Sprintf("%#x of protocol %d", groups, e.GetProtocol()), "CAP_NET_ADMIN")
	}
	// CRIU connects it to a group, to which only some may send.
	const connected = 1
	if (e.GetState() == connected || e.GetDstPortid() != 0 || e.GetDstGroup() != 0) && !o.could("CAP_NET_ADMIN") {
		o.lacks(f, "state", fmt.Sprintf("connected to port %d, group %d", e.GetDstPortid(), e.GetDstGroup()), "CAP_NET_ADMIN")
	}
	return nil
}

// packetSocket checks a socket that sees every packet.
func (o *openFiles) packetSocket(f *openFile) error {
	if !o.could("CAP_NET_RAW") {
		o.lacks(f, "type", "a packet socket", "CAP_NET_RAW")
	}
	return o.socketOptions(f, f.GetPsk().GetOpts(), f.GetPsk().GetNsId())
}
