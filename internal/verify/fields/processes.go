package fields

// ownSignal is why signals are free.
const ownSignal = "a process may handle, block and send itself what it likes"

// processes are the core images: what a process and each of its threads is.
var processes = []Message{
	{"core_entry", []Row{
		free("mtype", "CRIU refuses another machine's (criu/cr-restore.c, check_core)"),
		judged("tc", "criu.Processes"),
		judged("thread_core", "limits"),
		judged("ids", "processNamespaces"),
		free("thread_info ti_aarch64", "the registers, field by field: see their messages"),
		free("ti_arm ti_ppc64 ti_s390 ti_mips",
			"of machines for which this project is not built: CRIU reads those of its own machine"),
	}},
	{"task_core_entry", []Row{
		judged("task_state", "credentials"),
		judged("timers", "timers"),
		forced("rlimits", "rlimits"),
		forced("oom_score_adj", "oomScore"),
		forced("loginuid", "login"),
		forced("cg_set", "cgroups setCgroup"),
		judged("signals_s", "signals"),
		judged("old_seccomp_mode old_seccomp_filter", "process"),
		free("exit_code", "of a zombie, which ends itself with it (criu/cr-restore.c, restore_one_zombie)"),
		free("personality flags", "a restore does not read them"),
		free("blk_sigset blk_sigset_extended sigactions", ownSignal+"; CRIU wants them complete (criu/sigact.c)"),
		free("stop_signo", "goes to the process itself, in the place of SIGSTOP (criu/cr-restore.c, finalize_restore)"),
		free("comm", "a name that a process gives itself; CRIU cuts it (prctl(2), PR_SET_NAME)"),
		free("child_subreaper", "only its own descendants become its children (prctl(2), PR_SET_CHILD_SUBREAPER)"),
		free("membarrier_registration_mask", "any process may register for any of them (membarrier(2))"),
	}},
	{"task_timers_entry", []Row{
		judged("posix", "timers"),
		free("real virt prof", "their signals go to the process itself (setitimer(2))"),
	}},
	{"itimer_entry", []Row{
		free("isec iusec vsec vusec", "the process sets them as it likes (setitimer(2))"),
	}},
	{"posix_timer_entry", []Row{
		judged("clock_id it_id", "timers"),
		free("si_signo it_sigev_notify sival_ptr overrun notify_thread_id",
			"signals to the process itself: the kernel gives a timer to no thread of another one (timer_create(2))"),
		free("isec insec vsec vnsec", "the process sets them as it likes (timer_settime(2))"),
	}},
	{"task_rlimits_entry", []Row{
		forced("rlimits", "rlimits"),
	}},
	{"rlimit_entry", []Row{
		forced("cur max", "rlimits"),
	}},
	{"signal_queue_entry", []Row{
		judged("signals", "signals"),
	}},
	{"siginfo_entry", []Row{
		because(judged("siginfo", "signals"), "the size; what it says, a process may tell itself (rt_sigqueueinfo(2))"),
	}},
	{"sa_entry", []Row{
		free("sigaction flags restorer mask compat_sigaction mask_extended", ownSignal),
	}},
	{"thread_core_entry", []Row{
		judged("sched_nice sched_policy sched_prio", "scheduling"),
		judged("signals_p", "signals"),
		judged("creds", "credentials"),
		judged("seccomp_mode", "chain compare"),
		judged("seccomp_filter", "chain"),
		forced("cg_set", "cgroups setCgroup"),
		free("futex_rla futex_rla_len", "an address in the memory of the process (set_robust_list(2))"),
		free("blk_sigset blk_sigset_extended", ownSignal),
		free("sas", "the stack for signals, in the memory of the process"),
		free("pdeath_sig", "goes to the process itself (prctl(2), PR_SET_PDEATHSIG)"),
		free("comm", "a name that a thread gives itself; CRIU cuts it"),
		free("rseq_entry", "an address in the memory of the process"),
		free("timerslack_ns", "a thread may give itself any (prctl(2), PR_SET_TIMERSLACK)"),
	}},
	{"thread_sas_entry", []Row{
		free("ss_sp ss_size ss_flags", "the kernel accepts what it accepts of the process (sigaltstack(2))"),
	}},
	{"rseq_entry", []Row{
		free("rseq_abi_pointer rseq_abi_size signature rseq_cs_pointer",
			"a registration of memory of the process for itself (Linux: kernel/rseq.c)"),
	}},
	{"creds_entry", []Row{
		judged("uid euid suid fsuid", "users"),
		judged("gid egid sgid fsgid groups", "groups"),
		judged("cap_inh cap_prm cap_eff cap_bnd secbits", "capabilities"),
		judged("cap_amb", "capabilities"),
		judged("no_new_privs", "noNewPrivs"),
		forced("lsm_profile", "label forceLabel"),
		judged("lsm_sockcreate apparmor_data", "label"),
	}},
}
