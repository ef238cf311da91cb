package fields

// memory is where a process's memory is, what it is mapped from, and which pages are in the checkpoint.
var memory = []Message{
	{"mm_entry", []Row{
		judged("exe_file_id mm_saved_auxv vmas", "space"),
		judged("aios", "rings"),
		free("mm_start_code mm_end_code mm_start_data mm_end_data mm_start_stack mm_start_brk mm_brk mm_arg_start "+
			"mm_arg_end mm_env_start mm_env_end",
			"what the process shows of itself in procfs; the kernel wants addresses of the process (prctl(2), PR_SET_MM_MAP)"),
		free("dumpable", "the process sets it itself, and CRIU sets no other than 0 or 1 (criu/pie/restorer.c, "+
			"restore_dumpable_flag)"),
		free("thp_disabled", "the process sets it itself (prctl(2), PR_SET_THP_DISABLE)"),
	}},
	{"vma_entry", []Row{
		judged("start end pgoff shmid prot flags status fd madv fdflags", "mapping aligned mapped fileFlags attached"),
	}},
	{"aio_ring_entry", []Row{
		judged("id nr_req ring_len", "rings"),
	}},
	{"pagemap_head", []Row{
		judged("pages_id", "criu.Pagemap"),
	}},
	{"pagemap_entry", []Row{
		because(whole(judged("vaddr nr_pages in_parent flags", "criu.decodePages pagemap")),
			"nr_pages is both the number of 32 bits and that of 64 (CRIU 4.2)"),
		because(whole(judged("blocks", "criu.decodePages")), "any is refused: what is in compressed pages is not looked at (CRIU 4.3)"),
	}},
	{"pagemap_blocks", []Row{
		because(whole(judged("block_sizes total_payload_size pages_per_block", "criu.decodePages")), "any is refused"),
	}},
}
