package fields

const (
	ownBox = "CRIU makes the file anew, and a process may do this with a file that it has open"
	noKind = "a file of this type is refused, whatever it says"
)

// files are open files with a path, what stands in for deleted ones, and the tables of descriptors.
var files = []Message{
	{"fs_entry", []Row{
		judged("cwd_id root_id umask", "directories"),
	}},
	{"fdinfo_entry", []Row{
		judged("id flags fd", "readTable"), judged("xattr_security_selinux", "labels"),
		whole(judged("type", "fileType readTable")),
	}},
	{"file_entry", []Row{
		judged("id", "readFiles newFile"),
		because(whole(judged("type reg isk nsf psk nlsk efd epfd sgfd tunf tfd ify ffy ext usk fifo pipe tty memfd bpf "+
			"pidfd", "fileType newFile file")),
			"one of them, that of the file's type"),
	}},
	{"reg_file_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		judged("name mnt_id mode ext", "regular name paths locate kernelFile"),
		because(judged("size", "difference"),
			"in the root file system; elsewhere CRIU compares it when it opens the file, and fails (criu/files-reg.c, "+
				"open_path)"),
		free("pos", "where the process goes on to read and write (lseek(2))"),
		free("build_id checksum checksum_config checksum_parameter",
			"CRIU compares them with the file and can only fail (criu/files-reg.c, validate_file)"),
	}},
	{"fown_entry", []Row{
		judged("uid euid signum pid_type pid", "owner"),
	}},
	{"ns_file_entry", []Row{
		judged("id", "newFile"),
		judged("ns_id ns_cflag flags", "namespaceFile"),
	}},
	{"remap_file_path_entry", []Row{
		judged("orig_id remap_id remap_type", "readRemaps ghosts"),
	}},
	{"ghost_file_entry", []Row{
		judged("mode atim mtim chunks size symlnk_target", "ghost chunk"),
		judged("uid gid", "deleted"),
		free("dev ino", "by which CRIU finds that a watch is of this file (criu/files-reg.c, lookup_ghost_remap), which "+
			"the process has open"),
		free("rdev", "of devices, which are refused: see mode"),
	}},
	{"timeval", []Row{
		free("tv_sec tv_usec", "times of a file that the process made"),
	}},
	{"ghost_chunk_entry", []Row{
		judged("len off", "chunk"),
	}},
	{"file_lock_entry", []Row{
		judged("flag pid fd", "locks"),
		free("type start len", "the kernel lets a process lock what it has open, as it has it open (fcntl(2)); CRIU waits "+
			"for what somebody else has locked"),
	}},
	{"fifo_entry", []Row{
		judged("id", "newFile"),
		judged("regf_id", "fifo"),
		judged("pipe_id", "pipeData"),
		free("wait_writer", "whether a reader waits for its first writer, as it may by opening the pipe again"),
	}},
	{"pipe_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		judged("pipe_id", "pipeData"),
		free("uid gid", "who may open the pipe again by /proc/PID/fd, which needs the right to trace a process that has it"),
	}},
	{"pipe_data_entry", []Row{
		judged("pipe_id bytes size", "dataOf"),
	}},
}

// otherFiles are those that the kernel makes for a process, without a path.
var otherFiles = []Message{
	{"eventfd_file_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		free("counter", ownBox),
	}},
	{"eventpoll_file_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		judged("tfd", "eventpoll"),
	}},
	{"eventpoll_tfd_entry", []Row{
		judged("tfd events", "eventpoll"),
		free("data", ownBox),
		free("id dev inode pos", "by which a dump finds files; a restore does not read them (criu/eventpoll.c, "+
			"eventpoll_retore_tfd)"),
	}},
	{"signalfd_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		free("sigmask", ownBox),
	}},
	{"timerfd_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		judged("clockid", "timer"),
		free("ticks settime_flags vsec vnsec isec insec", ownBox),
	}},
	{"inotify_file_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		judged("wd", "inotify"),
	}},
	{"inotify_wd_entry", []Row{
		judged("f_handle", "inotify"),
		because(judged("wd", "inotify"),
			"only named: the kernel gives the number that CRIU asks for (criu/fsnotify.c, INOTIFY_IOC_SETNEXTWD)"),
		free("i_ino s_dev", "of a watch without a path, which is refused, or of a deleted file that CRIU makes for the "+
			"process"),
		free("mask", "CRIU takes only the events of it, which anybody may ask for who may read the file (criu/fsnotify.c, "+
			"restore_one_inotify)"),
		free("id ignored_mask", "a restore does not read them"),
	}},
	{"fh_entry", []Row{
		judged("path mnt_id", "inotify paths locate"),
		free("bytes type handle", "of a watch without a path, which is refused"),
	}},
	{"fanotify_file_entry", []Row{because(whole(judged("id flags fown faflags evflags mark", "file")), noKind)}},
	{"fanotify_mark_entry", []Row{because(whole(judged("id type mflags mask ignored_mask s_dev ie me", "file")),
		noKind)}},
	{"fanotify_inode_mark_entry", []Row{because(whole(judged("i_ino f_handle", "file")), noKind)}},
	{"fanotify_mount_mark_entry", []Row{because(whole(judged("mnt_id path", "file")), noKind)}},
	{"tunfile_entry", []Row{because(whole(judged("id netdev detached ns_id", "file")), noKind)}},
	{"ext_file_entry", []Row{because(whole(judged("id fown", "file")), noKind)}},
	{"bpfmap_file_entry", []Row{because(whole(judged("id flags pos fown map_type key_size value_size map_id "+
		"max_entries map_flags memlock frozen map_name ifindex mnt_id map_extra", "file")), noKind)}},
	{"pidfd_entry", []Row{
		because(whole(judged("id flags nspid fown", "decodePIDFile pidFile openFlags owner")),
			"by hand: go-criu does not know the message"),
		free("ino", "by which CRIU sees that two are of one process that has ended (criu/pidfd.c)"),
	}},
	{"memfd_file_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		judged("inode_id", "memoryFiles"),
		free("pos", "where the process goes on to read and write (lseek(2))"),
	}},
	{"memfd_inode_entry", []Row{
		judged("inode_id size seals hugetlb_flag", "memoryFiles memoryFile"),
		judged("shmid", "open"),
		judged("mode", "memoryFile"),
		free("name", "shown in procfs only (memfd_create(2))"),
		free("uid gid", "the owner of memory that has no path; with set-user-ID or set-group-ID it is refused"),
	}},
	{"tty_file_entry", []Row{
		judged("id fown", "newFile owner"),
		judged("flags", "newFile openFlags"),
		judged("tty_info_id regf_id", "terminals"),
	}},
	{"tty_info_entry", []Row{
		judged("id pty", "terminals"),
		judged("type", "isTerminal"),
		judged("rdev", "deviceMajor deviceMinor"),
		free("sid pgrp", "a process with this session takes the terminal, and gives it to a group of the session, as the "+
			"kernel lets it (tty_ioctl(4))"),
		free("locked exclusive packet_mode termios winsize",
			"any process that has the terminal may set them (tty_ioctl(4))"),
		free("termios_locked", "takes settings away from who has the terminal, and gives none"),
		free("dev", "CRIU makes a name for external terminals of it, of which there are none"),
		free("uid gid", "the owner of a terminal of the container's own devpts, which CRIU makes"),
	}},
	{"termios_entry", []Row{
		free("c_iflag c_oflag c_cflag c_lflag c_line c_ispeed c_ospeed c_cc",
			"any process that has the terminal may set them; CRIU wants them complete (criu/tty.c, verify_termios)"),
	}},
	{"winsize_entry", []Row{
		free("ws_row ws_col ws_xpixel ws_ypixel", "any process that has the terminal may set them"),
	}},
	{"tty_pty_entry", []Row{
		judged("index", "terminals isTerminal"),
	}},
	{"tty_data_entry", []Row{
		judged("tty_id", "terminalData"),
		free("data", "what was typed into the terminal, and not read"),
	}},
}
