package fields

const (
	ownOption  = "any process may set it on a socket of its own (Linux: sk_setsockopt)"
	withRaw    = "the socket as a whole needs CAP_NET_RAW, with which a process may set it"
	ownTCP     = "any process may set it on a connection of its own (tcp(7))"
	restoreTCP = `read only where tcp_connections is "local" or "restore": the state of the connection, which the checkpoint knows`
)

// sockets are those to a network, and their options.
var sockets = []Message{
	{"inet_sk_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		judged("ino family type proto src_addr dst_addr dst_port opts ip_opts", "inetSocket"),
		judged("src_port", "inetSocket port"),
		judged("ns_id", "inetSocket socketOptions"),
		free("state", "to listen, or to be connected, needs no right beyond the port; CRIU calls listen(2) and connect(2)"),
		free("backlog v6only shutdown", ownOption),
		free("ifname", "the link of a link-local address, in the pod's network"),
		free("tcp_opts", ownTCP),
		judged("uid", "inetOwner"),
	}},
	{"tcp_opts_entry", []Row{
		free("cork nodelay keepcnt keepidle keepintvl", ownTCP),
	}},
	{"sk_opts_entry", []Row{
		judged("so_sndbuf so_rcvbuf so_priority so_mark so_filter", "socketOptions"),
		free("so_snd_tmo_sec so_snd_tmo_usec so_rcv_tmo_sec so_rcv_tmo_usec reuseaddr so_rcvlowat so_passcred so_passsec "+
			"so_dontroute so_no_check", ownOption),
		free("so_reuseport so_broadcast so_keepalive so_oobinline so_linger so_buf_lock", ownOption),
		free("tcp_keepcnt tcp_keepidle tcp_keepintvl", ownTCP),
		free("so_bound_dev", "a device of the pod's network: since Linux 5.7 any process may bind a socket once "+
			"(sock_bindtoindex)"),
	}},
	{"ip_opts_entry", []Row{
		because(judged("raw", "inetSocket"), "on other sockets than raw ones it is refused"),
		free("freebind pktinfo tos ttl", "any process may set it on a socket of its own (ip(7))"),
	}},
	{"ip_opts_raw_entry", []Row{
		free("hdrincl nodefrag checksum icmpv_filter", withRaw),
	}},
	{"tcp_stream_entry", []Row{
		judged("inq_len outq_len unsq_len", "tcpStream"),
		free("inq_seq outq_seq opt_mask snd_wscale mss_clamp rcv_wscale timestamp snd_wl1 snd_wnd max_window rcv_wnd "+
			"rcv_wup", restoreTCP),
		free("cork nodelay", ownTCP),
	}},
	{"packet_sock_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		judged("opts ns_id", "packetSocket"),
		free("type protocol ifindex version reserve aux_data orig_dev vnet_hdr loss timestamp copy_thresh mclist fanout "+
			"rx_ring tx_ring", withRaw),
	}},
	{"packet_mclist", []Row{
		free("index type addr", withRaw),
	}},
	{"packet_ring", []Row{
		free("block_size block_nr frame_size frame_nr retire_tmo sizeof_priv features", withRaw),
	}},
	{"netlink_sk_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		judged("protocol state groups dst_portid dst_group opts ns_id", "netlinkSocket"),
		free("portid", "any process may take an address that nobody has (netlink(7))"),
		free("ino", "a restore does not read it"),
	}},
}

// otherSockets are Unix sockets, and what is in their queues.
var otherSockets = []Message{
	{"unix_sk_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		judged("ino type state uflags opts ns_id file_perms", "unixSocket socketOwner"),
		judged("name mnt_id name_dir deleted", "socketName socketPath sockets bound"),
		judged("peer", "unixPeers"),
		free("backlog shutdown", ownOption),
	}},
	{"file_perms_entry", []Row{
		judged("mode uid gid", "socketOwner"),
	}},
	{"sk_packet_entry", []Row{
		judged("id_for length scm", "readQueues"),
		free("ucred", "who is said to have sent it is read by a process of the checkpoint only"),
	}},
	{"sk_ucred_entry", []Row{
		free("uid gid pid", "who is said to have sent it is read by a process of the checkpoint only"),
	}},
	{"scm_entry", []Row{
		judged("type rights", "readQueues"),
	}},
}
