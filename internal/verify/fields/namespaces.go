package fields

const ownNamespace = "with a namespace of the pod CRIU reads the pod's own value; a namespace of the container's " +
	"own is the checkpoint's to fill"

// namespaces are the images of namespaces but for mounts and System V IPC.
var namespaces = []Message{
	{"netns_entry", []Row{
		judged("ext_key", "external"),
		because(whole(judged("def_conf all_conf def_conf4 all_conf4 def_conf6 all_conf6 nsids unix_conf", "external")),
			"any is refused"),
	}},
	{"sysctl_entry", []Row{
		because(whole(judged("type iarg sarg", "external")), "any is refused"),
	}},
	{"netns_id", []Row{
		because(whole(judged("target_ns_id netnsid_value", "external")), "any is refused"),
	}},
	{"pidns_entry", []Row{
		judged("ext_key", "external"),
	}},
	{"utsns_entry", []Row{
		because(whole(forced("nodename domainname", "restore.KeepPodNamespaces criu.WriteUTS")), ownNamespace),
	}},
	{"timens_entry", []Row{
		judged("monotonic boottime", "clocks"),
	}},
	{"timespec", []Row{
		judged("tv_sec tv_nsec", "clocks"),
	}},

	{"cgroup_entry", []Row{whole(forced("sets controllers", "cgroups"))}},
	{"cg_set_entry", []Row{whole(forced("id ctls", "cgroups"))}},
	{"cg_member_entry", []Row{whole(forced("name path cgns_prefix", "cgroups"))}},
	{"cg_controller_entry", []Row{whole(forced("cnames dirs is_threaded", "cgroups"))}},
	{"cgroup_dir_entry", []Row{whole(forced("dir_name children properties dir_perms", "cgroups"))}},
	{"cgroup_prop_entry", []Row{whole(forced("name value perms", "cgroups"))}},
	{"cgroup_perms", []Row{whole(forced("mode uid gid", "cgroups"))}},
}

// ipc are the limits and the objects of System V IPC.
var ipc = []Message{
	{"ipc_var_entry", []Row{
		because(whole(forced("sem_ctls msg_ctlmax msg_ctlmnb msg_ctlmni auto_msgmni shm_ctlmax shm_ctlall shm_ctlmni "+
			"shm_rmid_forced mq_queues_max mq_msg_max mq_msgsize_max",
			"restore.KeepPodNamespaces criu.WriteIPC")), ownNamespace),
		because(whole(forced("mq_msg_default mq_msgsize_default msg_next_id sem_next_id shm_next_id",
			"restore.KeepPodNamespaces criu.WriteIPC")), "left out of what CRIU reads, which leaves them"),
	}},
	{"ipc_shm_entry", []Row{
		judged("desc size in_pagemaps hugetlb_flag", "sysVSegments"),
	}},
	{"ipc_desc_entry", []Row{
		judged("id mode", "ipcObject"),
		free("key", "any process of the pod may make an object with a key that nobody has (ipc(2))"),
		free("uid gid", "any process may make an object and give it away (ipc(2), IPC_SET)"),
		free("cuid cgid", "a restore does not read them: the creator is CRIU"),
	}},
	{"ipc_msg_entry", []Row{
		judged("desc qnum", "queues"),
		free("qbytes", "a restore does not read it: the queue has the namespace's limit (criu/ipc_ns.c, "+
			"prepare_ipc_msg_queue)"),
	}},
	{"ipc_msg", []Row{
		judged("msize", "queues"),
		free("mtype", "a number that the sender chooses (msgop(2))"),
	}},
	{"ipc_sem_entry", []Row{
		judged("desc nsems", "semaphores"),
	}},
}
