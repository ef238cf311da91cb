package fields

// Images are the kinds of images that a checkpoint may have. All others are refused by verify's names.
var Images = []Image{
	{Name: "inventory.img", Messages: "inventory_entry"},
	{Name: "pstree.img", Messages: "pstree_entry"},
	{Name: "core-", Messages: "core_entry"},
	{Name: "ids-", Messages: "task_kobj_ids_entry"},
	{Name: "seccomp.img", Messages: "seccomp_entry"},

	{Name: "mm-", Messages: "mm_entry"},
	{Name: "pagemap-", Messages: "pagemap_head pagemap_entry"},
	{Name: "pagemap-shmem-", Messages: "pagemap_head pagemap_entry"},
	{Name: "pages-", By: "pagemap", Why: "the memory itself, of exactly the size that its pagemap says"},

	{Name: "mountpoints-", Messages: "mnt_entry"},
	{Name: "tmpfs-dev-", By: "tmpfs",
		Why: "an archive, which is read strictly and written anew: CRIU reads the new one"},
	{Name: "tmpfs-", By: "tmpfs", Why: "an archive in an old form, which CRIU reads where the new one is empty: refused"},

	{Name: "netns-", Messages: "netns_entry"},
	{Name: "pidns-", Messages: "pidns_entry"},
	{Name: "utsns-", Messages: "utsns_entry"},
	{Name: "timens-", Messages: "timens_entry"},
	{Name: "ipcns-var-", Messages: "ipc_var_entry"},
	{Name: "ipcns-shm-", Messages: "ipc_shm_entry"},
	{Name: "ipcns-msg-", Messages: "ipc_msg_entry ipc_msg"},
	{Name: "ipcns-sem-", Messages: "ipc_sem_entry"},
	{Name: "cgroup.img", Messages: "cgroup_entry"},

	{Name: "fs-", Messages: "fs_entry"},
	{Name: "fdinfo-", Messages: "fdinfo_entry"},
	{Name: "files.img", Messages: "file_entry"},
	{Name: "remap-fpath.img", Messages: "remap_file_path_entry"},
	{Name: "ghost-file-", Messages: "ghost_file_entry ghost_chunk_entry"},
	{Name: "filelocks.img", Messages: "file_lock_entry"},
	{Name: "pipes-data.img", Messages: "pipe_data_entry"},
	{Name: "fifo-data.img", Messages: "pipe_data_entry"},
	{Name: "tty-info.img", Messages: "tty_info_entry"},
	{Name: "tty-data.img", Messages: "tty_data_entry"},
	{Name: "memfd.img", Messages: "memfd_inode_entry"},
	{Name: "sk-queues.img", Messages: "sk_packet_entry"},
	{Name: "tcp-stream-", Messages: "tcp_stream_entry"},

	{Name: "descriptors.json", By: "stdio", Why: "runc's: where the first three descriptors led. CRIU does not read it"},
	{Name: "dump.log", Why: "the log of the dump. A restore does not read it"},
	{Name: "stats-dump", Why: "the times of the dump. A restore does not read it"},
}
