package fields

const (
	ownRegisters = "a thread has any value in them; the kernel lets no return from a signal leave user mode " +
		"(sigreturn(2))"
	ownKeys      = "keys of the thread for its own pointers (Linux: Documentation/arch/arm64/pointer-authentication.rst)"
	otherMachine = "of a machine for which this project is not built: CRIU does not read it on another one"
)

// registers are those of a thread, by machine.
var registers = []Message{
	{"thread_info_x86", []Row{
		free("clear_tid_addr", "an address in the memory of the process (set_tid_address(2))"),
		free("gpregs fpregs", ownRegisters),
		free("tls", "segments that any thread may make (set_thread_area(2))"),
	}},
	{"user_x86_regs_entry", []Row{
		free("r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss fs_base gs_base ds es fs gs",
			ownRegisters),
		free("mode", "64 or 32 bits, which a program may change; seccomp filters are compared for both"),
	}},
	{"user_x86_fpregs_entry", []Row{
		free("cwd swd twd fop rip rdp mxcsr mxcsr_mask padding xsave", ownRegisters),
		free("st_space xmm_space", ownRegisters+"; CRIU checks their number (criu/arch/x86/crtools.c, valid_xsave_frame)"),
	}},
	{"user_x86_xsave_entry", []Row{
		free("xstate_bv", "CRIU keeps what the machine has; the kernel refuses what is not of user mode"),
		free("ymmh_space bndreg_state bndcsr_state opmask_reg zmm_upper hi16_zmm pkru",
			ownRegisters+"; CRIU checks their number"),
		free("cet", "the shadow stack, in the memory of the process"),
	}},
	{"user_x86_cet_entry", []Row{
		free("cet ssp", "which features are on, as any process chooses, and where its shadow stack is: the processor "+
			"writes to no other memory with it"),
	}},
	{"user_desc_t", []Row{
		free("entry_number base_addr limit seg_32bit contents_h contents_l read_exec_only limit_in_pages seg_not_present "+
			"usable", "any thread may make such segments (set_thread_area(2))"),
	}},
	{"thread_info_aarch64", []Row{
		free("clear_tid_addr", "an address in the memory of the process (set_tid_address(2))"),
		free("tls", ownRegisters),
		judged("gpregs", "registers"),
		free("fpsimd", ownRegisters),
		free("pac_keys", ownKeys),
		free("gcs", "the shadow stack, in the memory of the process"),
	}},
	{"user_aarch64_regs_entry", []Row{
		because(judged("regs", "registers"), "the number; "+ownRegisters),
		free("sp pc pstate", ownRegisters),
	}},
	{"user_aarch64_fpsimd_context_entry", []Row{
		free("vregs", ownRegisters+"; CRIU checks their number (criu/arch/aarch64/crtools.c, restore_fpu)"),
		free("fpsr fpcr", ownRegisters),
	}},
	{"user_aarch64_gcs_entry", []Row{
		free("gcspr_el0 features_enabled", "which features are on, as any process chooses, and where its shadow stack is"),
	}},
	{"pac_keys", []Row{
		free("pac_address_keys pac_generic_keys", ownKeys),
	}},
	{"pac_address_keys", []Row{
		free("apiakey_lo apiakey_hi apibkey_lo apibkey_hi apdakey_lo apdakey_hi apdbkey_lo apdbkey_hi pac_enabled_key",
			ownKeys),
	}},
	{"pac_generic_keys", []Row{
		free("apgakey_lo apgakey_hi", ownKeys),
	}},

	{"thread_info_arm", []Row{free("clear_tid_addr tls gpregs fpstate", otherMachine)}},
	{"user_arm_regs_entry", []Row{free("r0 r1 r2 r3 r4 r5 r6 r7 r8 r9 r10 fp ip sp lr pc cpsr orig_r0", otherMachine)}},
	{"user_arm_vfpstate_entry", []Row{free("vfp_regs fpscr fpexc fpinst fpinst2", otherMachine)}},

	{"thread_info_ppc64", []Row{free("clear_tid_addr gpregs fpstate vrstate vsxstate tmstate", otherMachine)}},
	{"user_ppc64_regs_entry", []Row{free("gpr nip msr orig_gpr3 ctr link xer ccr trap texasr tfhar tfiar",
		otherMachine)}},
	{"user_ppc64_fpstate_entry", []Row{free("fpregs", otherMachine)}},
	{"user_ppc64_vrstate_entry", []Row{free("vrregs vrsave", otherMachine)}},
	{"user_ppc64_vsxstate_entry", []Row{free("vsxregs", otherMachine)}},
	{"user_ppc64_tm_regs_entry", []Row{free("gpregs fpstate vrstate vsxstate", otherMachine)}},

	{"thread_info_s390", []Row{free("clear_tid_addr gpregs fpregs vxrs_low vxrs_high gs_cb gs_bc ri_cb", otherMachine)}},
	{"user_s390_regs_entry", []Row{free("psw_mask psw_addr gprs acrs orig_gpr2 system_call", otherMachine)}},
	{"user_s390_fpregs_entry", []Row{free("fpc fprs", otherMachine)}},
	{"user_s390_vxrs_low_entry", []Row{free("regs", otherMachine)}},
	{"user_s390_vxrs_high_entry", []Row{free("regs", otherMachine)}},
	{"user_s390_gs_cb_entry", []Row{free("regs", otherMachine)}},
	{"user_s390_ri_entry", []Row{free("ri_on regs", otherMachine)}},

	{"thread_info_mips", []Row{free("clear_tid_addr tls gpregs fpregs", otherMachine)}},
	{"user_mips_regs_entry", []Row{
		free("r0 r1 r2 r3 r4 r5 r6 r7 r8 r9 r10 r11 r12 r13 r14 r15 r16 r17 r18 r19 r20 r21 r22 r23 r24 r25 r26 r27 r28 "+
			"r29 r30 r31", otherMachine),
		free("lo hi cp0_epc cp0_badvaddr cp0_status cp0_cause", otherMachine),
	}},
	{"user_mips_fpregs_entry", []Row{
		free("r0 r1 r2 r3 r4 r5 r6 r7 r8 r9 r10 r11 r12 r13 r14 r15 r16 r17 r18 r19 r20 r21 r22 r23 r24 r25 r26 r27 r28 "+
			"r29 r30 r31", otherMachine),
		free("lo hi fpu_fcr31 fpu_id", otherMachine),
	}},
}
