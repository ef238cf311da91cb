package fields

// inventory is what CRIU is told of all images, and the tree of processes.
var inventory = []Message{
	{"inventory_entry", []Row{
		judged("img_version fdinfo_per_id ns_per_id root_cg_set network_lock_method", "inventory"),
		forced("lsmtype", "labelKind"),
		judged("root_ids", "inventory processNamespaces"),
		judged("plugins_entry", "inventory"),
		judged("dump_criu_run_id", "inventory"),
		judged("allow_uprobes", "inventory"),
		because(judged("compress", "inventory"), "only pages that are not compressed"),
		free("compress_block_size", "says something of compressed pages only, which are refused (CRIU 4.3)"),
		free("dump_uptime pre_dump_mode",
			"for a later dump that builds on this one (criu/mem.c); a restore does not read them"),
		free("tcp_close", "CRIU only fails where the option is not set (criu/image.c, do_check_img_inventory)"),
	}},
	{"plugins_entry", []Row{
		because(whole(judged("plugins", "inventory")), "any is refused"),
	}},
	{"pstree_entry", []Row{
		judged("pid ppid", "criu.Processes"),
		judged("threads", "criu.Processes"),
		judged("pgid sid", "tree"),
	}},
	{"task_kobj_ids_entry", []Row{
		judged("files_id", "names readDescriptors"),
		judged("pid_ns_id net_ns_id ipc_ns_id uts_ns_id mnt_ns_id user_ns_id",
			"names sameNamespaces external criu.SharedNamespaces criu.NamespaceIDs"),
		judged("cgroup_ns_id", "sameNamespaces otherIDs"),
		judged("time_ns_id", "clocks"),
		free("vm_id fs_id sighand_id",
			"a restore does not read them: processes share no memory, directories and handlers but by threads "+
				"(criu/pstree.c)"),
	}},
	{"seccomp_entry", []Row{
		judged("seccomp_filters", "filters"),
	}},
	{"seccomp_filter", []Row{
		because(judged("filter prev flags", "filters"), "what it lets through: compare, for each thread"),
	}},
}
