package verify

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// openToAll are the groups, 32 to a word, of the netlink protocols that everybody may listen to (Linux: NL_CFG_F_NONROOT_RECV), without those
// that the kernel keeps for CAP_NET_ADMIN all the same.
var openToAll = map[uint32][]uint32{
	// But the multicast routes of IPv4 and IPv6, RTNLGRP_IPV4_MROUTE_R and RTNLGRP_IPV6_MROUTE_R (net/core/rtnetlink.c, rtnetlink_bind).
	unix.NETLINK_ROUTE: {^uint32(1<<29 | 1<<30), everyGroup},
	// Of the families each decides for itself, and their numbers are the running kernel's: drop_monitor, psample and mptcp_pm want a
	// capability (net/netlink/genetlink.c, genl_bind). The one with a number of its own tells of the families (GENL_ID_CTRL).
	unix.NETLINK_GENERIC:        {1 << 15},
	unix.NETLINK_KOBJECT_UEVENT: {everyGroup, everyGroup},
	unix.NETLINK_SELINUX:        {everyGroup, everyGroup},
}

const everyGroup = 1<<32 - 1

// closed returns the first word of groups that not everybody may listen to, and whether there is one.
func closed(protocol uint32, groups []uint32) (word uint32, some bool) {
	open := openToAll[protocol]
	for i, g := range groups {
		var may uint32
		if i < len(open) {
			may = open[i]
		}
		if g&^may != 0 {
			return g &^ may, true
		}
	}
	return 0, false
}

// netlinkSocket checks a socket to the kernel. To open one is free; what is sent over it is
// checked against the sender as well as the opener (Linux: netlink_capable).
func (o *openFiles) netlinkSocket(f *openFile) error {
	e := f.GetNlsk()
	if err := o.socketOptions(f, e.GetOpts(), e.GetNsId()); err != nil {
		return err
	}
	if groups, some := closed(e.GetProtocol(), e.GetGroups()); some && !o.could("CAP_NET_ADMIN") {
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
