package verify

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// TestNames has a checkpoint with a zombie and threads, and files added to it and taken from it.
func TestNames(t *testing.T) {
	honest := func() map[string]string {
		return criutest.Checkpoint(
			criutest.Task{PID: 1}, criutest.Task{PID: 7, Core: criutest.Zombie()},
			criutest.Task{PID: 9}, criutest.Task{PID: 20, Parent: 9},
		)
	}
	cases := map[string]judgement{}
	add := func(name string, j judgement) {
		j.change = func(files map[string]string, _ *specs.Spec) { files[name] = "" }
		cases[name] = j
	}
	for _, name := range []string{
		// Of the new version.
		"userns-2.img", "netdev-2.img", "ifaddr-2.img", "route-2.img", "route6-2.img", "rule-2.img",
		"iptables-2.img", "ip6tables-2.img", "nftables-2.img", "netns-ct-2.img", "netns-exp-2.img",
		"apparmor.img", "autofs-2.img", "binfmt-misc.img", "bpfmap-file.img", "bpfmap-data.img", "cpuinfo.img", "irmap-cache.img", "stats-restore",
		// Of the old one.
		"reg-files.img", "ext-files.img", "ns-files.img", "eventfd.img", "eventpoll.img", "eventpoll-tfd.img", "signalfd.img",
		"inotify.img", "inotify-wd.img", "fanotify.img", "fanotify-mark.img", "vmas-1.img", "pipes.img", "fifo.img", "sigacts-1.img",
		"unixsk.img", "inetsk.img", "packetsk.img", "netlinksk.img", "itimers-1.img", "posix-timers-1.img", "creds-1.img", "tty.img",
		"rlimit-1.img", "pages-shmem-1.img", "signal-s-1.img", "signal-p-1.img", "tunfile.img", "timerfd.img", "binfmt-misc-3.img", "pidfd.img",
		// Of plugins, of incremental and of lazy checkpoints, and others.
		"amdgpu-kfd-1.img", "amdgpu-pages-1-1.img", "parent", "lazy-pages.socket", "pages-1.img.gz",
		"inventory.img.bak", "tmpfs-dev-3.img", "tmpfs-3.tar.img", "x.img", "core-1", "\nx.img",
	} {
		add(name, judgement{refused: "not known to be harmless"})
	}
	for _, name := range []string{
		"core-.img", "pages-1.comp.img", "core-01.img", "core-+1.img", "core- 1.img", "core-0x1.img", "core-1e0.img", "pages-0001.img",
		"ghost-file-0A.img", "ghost-file-A.img", "tmpfs-dev-03.tar.gz.img", "core-18446744073709551617.img",
	} {
		add(name, judgement{malformed: "not written as CRIU"})
	}
	for _, name := range []string{
		"core-2.img", "core-4294967297.img", "ids-2.img", "mm-2.img", "mm-7.img", "pagemap-7.img", "fs-7.img", "ids-7.img", "pagemap-2.img", "fs-8.img",
		"fdinfo-3.img", "netns-3.img", "netns-0.img", "pidns-1.img", "utsns-1.img", "mountpoints-3.img",
		"timens-5.img", "ipcns-var-1.img", "ipcns-shm-1.img", "ipcns-msg-3.img", "ipcns-sem-3.img",
	} {
		add(name, judgement{malformed: "nothing in the checkpoint has the number"})
	}
	add("pages-99.img", judgement{malformed: "no pagemap has its pages"})
	for _, name := range []string{
		"mountpoints-2.img", "ipcns-var-2.img", "remap-fpath.img", "pipes-data.img", "fifo-data.img", "sk-queues.img", "tty-info.img", "tty-data.img", "filelocks.img",
		"ghost-file-1f.img", "tcp-stream-9a.img", "tmpfs-dev-79.tar.gz.img", "tmpfs-79.tar.gz.img", "dump.log", "stats-dump",
	} {
		add(name, judgement{})
	}
	for _, name := range []string{"mm-9.img", "pagemap-9.img", "fs-20.img", "fdinfo-2.img"} {
		cases["without "+name] = judgement{
			change:    func(files map[string]string, _ *specs.Spec) { delete(files, name) },
			malformed: name,
		}
	}
	judge(t, honest, cases)
}
