package verify

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// fixedNames are the images of which there is one (CRIU: criu/image-desc.c), and what lies beside them.
var fixedNames = map[string]bool{
	"inventory.img": true, "pstree.img": true, // checked here and in criu.Processes
	"files.img": true, "remap-fpath.img": true, "filelocks.img": true, // open files
	"pipes-data.img": true, "fifo-data.img": true, "sk-queues.img": true, // what was in pipes and sockets: data
	"tty-info.img": true, "tty-data.img": true, // terminals and what was in them
	"memfd.img":        true, // sizes: memory; the rest: open files
	"seccomp.img":      true, // filters
	"cgroup.img":       true, // CRIU is made to read an empty one
	"descriptors.json": true, // runc's: where the first three descriptors lead
	"dump.log":         true, // CRIU's log and statistics, if its work directory was the same;
	"stats-dump":       true, // a restore reads neither
}

// number says what the number in the name of an image is.
type number int

const (
	ofThread number = iota
	ofProcess
	ofFiles // a table of open files
	ofPages // known from a pagemap
	ofShared
	ofMount
	ofGhost // hexadecimal
	ofNetwork
	ofPID
	ofIPC
	ofUTS
	ofMountNamespace
	ofTime
)

// numberedNames are the images of which there are many, by what is before the number. The longest
// one that fits counts.
var numberedNames = map[string]number{
	"core-": ofThread, "ids-": ofProcess, "mm-": ofProcess, "pagemap-": ofProcess, "fs-": ofProcess,
	"fdinfo-": ofFiles, "pages-": ofPages, "pagemap-shmem-": ofShared,
	"tmpfs-dev-": ofMount, "tmpfs-": ofMount, // what was in a tmpfs: its place is a mount's
	"ghost-file-": ofGhost, "tcp-stream-": ofGhost,
	"netns-": ofNetwork, "pidns-": ofPID, "utsns-": ofUTS, "mountpoints-": ofMountNamespace, "timens-": ofTime,
	"ipcns-var-": ofIPC, "ipcns-shm-": ofIPC, "ipcns-msg-": ofIPC, "ipcns-sem-": ofIPC,
}

// names refuses images that this package cannot judge: what CRIU would do with them is not known
// here, or too much. Among these are users' namespaces, devices, addresses, routes and packet
// filters of a network (which CRIU hands to ip and iptables-restore), AppArmor policies (which it
// loads), the images of plugins, and those of old versions, which it still reads where the new one is
// not there. "parent", of incremental checkpoints, is no regular file, or else not among the names.
//
// Numbers have to be such as CRIU prints them, and name something that is there. So
// no image escapes the checks by another name, and none lies unused.
func (v *verifier) names() error {
	known := map[number]map[uint64]bool{
		ofThread: {}, ofProcess: {}, ofFiles: {}, ofTime: {0: true},
		ofNetwork: {}, ofPID: {}, ofIPC: {}, ofUTS: {}, ofMountNamespace: {},
	}
	for _, p := range v.processes {
		known[ofThread][uint64(p.GetPid())] = true
		for tid := range p.Others {
			known[ofThread][uint64(tid)] = true
		}
		if p.Dead() {
			continue // it has no more than a core image
		}
		known[ofProcess][uint64(p.GetPid())] = true
		ids, err := v.images.IDs(p.GetPid())
		if err != nil {
			return err
		}
		known[ofFiles][uint64(ids.GetFilesId())] = true
		known[ofNetwork][uint64(ids.GetNetNsId())] = true
		known[ofPID][uint64(ids.GetPidNsId())] = true
		known[ofIPC][uint64(ids.GetIpcNsId())] = true
		known[ofUTS][uint64(ids.GetUtsNsId())] = true
		known[ofMountNamespace][uint64(ids.GetMntNsId())] = true
		known[ofTime][uint64(ids.GetTimeNsId())] = true
		for _, needed := range []string{
			fmt.Sprintf("mm-%d.img", p.GetPid()), fmt.Sprintf("pagemap-%d.img", p.GetPid()), fmt.Sprintf("fs-%d.img", p.GetPid()),
			fmt.Sprintf("fdinfo-%d.img", ids.GetFilesId()),
		} {
			if _, ok := v.images.Size(needed); !ok {
				return malformed(needed, "process %d needs it, and it is not there", p.GetPid())
			}
		}
	}
	for _, name := range v.images.Names() {
		if fixedNames[name] {
			continue
		}
		kind, digits, ok := numbered(name)
		if !ok {
			v.refuse(Finding{
				Check: "images", Object: "image " + name, Field: "kind",
				Found: "one that is not known to be harmless", Allowed: "those that CRIU 4.2 writes for a container in a pod",
				Remedy: "make the checkpoint with CheckpointContainer, with runc and without plugins of CRIU",
			})
			continue
		}
		base := 10
		if kind == ofGhost {
			base = 16
		}
		n, err := strconv.ParseUint(digits, base, 64)
		if err != nil || strconv.FormatUint(n, base) != digits {
			return malformed(name, "its number is not written as CRIU writes it")
		}
		if of, limited := known[kind]; limited && !of[n] {
			return malformed(name, "nothing in the checkpoint has the number %s", digits)
		}
	}
	return nil
}

// numbered splits the name of an image of which there are many.
func numbered(name string) (kind number, digits string, ok bool) {
	stem, ok := strings.CutSuffix(name, ".img")
	if !ok {
		return 0, "", false
	}
	cut := strings.LastIndexByte(stem, '-') + 1
	kind, ok = numberedNames[stem[:cut]]
	digits = stem[cut:]
	if ok && kind == ofMount {
		digits, ok = strings.CutSuffix(digits, ".tar.gz")
	}
	return kind, digits, ok
}

// malformed is the error about an image that CRIU would not have written.
func malformed(name, format string, args ...any) error {
	return fmt.Errorf("CRIU image %.200q: %s: %w", name, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}
