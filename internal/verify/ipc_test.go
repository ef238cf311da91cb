package verify

import (
	"strings"
	"testing"

	ipc_desc "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-desc"
	ipc_msg "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-msg"
	ipc_sem "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-sem"
	ipc_shm "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

func ipcDesc(id, mode uint32) *ipc_desc.IpcDescEntry {
	zero := proto.Uint32(0)
	return &ipc_desc.IpcDescEntry{Key: zero, Uid: zero, Gid: zero, Cuid: zero, Cgid: zero, Mode: &mode, Id: &id}
}

// withIPC is a checkpoint with an object of each kind, as CRIU 4.2 writes them.
func withIPC() map[string]string {
	files := single()
	files["ipcns-shm-2.img"] = criutest.Image("IPCNS_SHM", segment(4, func(*ipc_shm.IpcShmEntry) {}))
	for name, content := range criutest.Pages("pagemap-shmem-4.img", "PAGEMAP", 30, criutest.Range{Start: criutest.Page, Pages: 1}) {
		files[name] = content
	}
	message := func(text string, size uint32) string {
		return criutest.Image("IPCNS_MSG", &ipc_msg.IpcMsg{Mtype: proto.Uint64(1), Msize: &size})[8:] + text
	}
	files["ipcns-msg-2.img"] = criutest.Image("IPCNS_MSG", queue(2)) + message("hello\x00\x00\x00", 5) + message("12345678", 8) + criutest.Image("IPCNS_MSG", queue(0))[8:]
	files["ipcns-sem-2.img"] = criutest.Image("IPCNS_SEM", semaphores(3)) + strings.Repeat("\x00", 8)
	return files
}

func segment(id uint32, change func(*ipc_shm.IpcShmEntry)) *ipc_shm.IpcShmEntry {
	e := &ipc_shm.IpcShmEntry{Desc: ipcDesc(id, 0o600), Size: proto.Uint64(2*criutest.Page - 100), InPagemaps: proto.Bool(true)}
	change(e)
	return e
}

func queue(messages uint32) *ipc_msg.IpcMsgEntry {
	return &ipc_msg.IpcMsgEntry{Desc: ipcDesc(messages, 0o600), Qbytes: proto.Uint32(16384), Qnum: &messages}
}

func semaphores(n uint32) *ipc_sem.IpcSemEntry {
	return &ipc_sem.IpcSemEntry{Desc: ipcDesc(9, 0o600), Nsems: &n}
}

func TestIPC(t *testing.T) {
	shm := func(j judgement, f func(*ipc_shm.IpcShmEntry)) judgement {
		j.change = func(files map[string]string, _ *specs.Spec) { change(files, "ipcns-shm-2.img", "IPCNS_SHM", f) }
		return j
	}
	with := func(name, content, malformed string) judgement {
		return judgement{change: func(files map[string]string, _ *specs.Spec) { files[name] = content }, malformed: malformed}
	}
	host := func(s *specs.Spec) {
		in(s, specs.IPCNamespace, joined)
		s.Linux.Namespaces[len(s.Linux.Namespaces)-1].Path = "/proc/self/ns/ipc"
	}
	message := criutest.Image("IPCNS_MSG", &ipc_msg.IpcMsg{Mtype: proto.Uint64(1), Msize: proto.Uint32(8193)})[8:]
	judge(t, withIPC, map[string]judgement{
		"marked for removal": shm(judgement{}, func(e *ipc_shm.IpcShmEntry) { e.Desc.Mode = proto.Uint32(0o1600) }),
		"of another user":    shm(judgement{}, func(e *ipc_shm.IpcShmEntry) { e.Desc.Uid = proto.Uint32(70000) }),
		"huge mode":          shm(judgement{malformed: "mode"}, func(e *ipc_shm.IpcShmEntry) { e.Desc.Mode = proto.Uint32(0o4600) }),
		"negative ID":        shm(judgement{malformed: "object 4294967295"}, func(e *ipc_shm.IpcShmEntry) { e.Desc.Id = proto.Uint32(1<<32 - 1) }),
		"no size":            shm(judgement{malformed: "0 bytes"}, func(e *ipc_shm.IpcShmEntry) { e.Size = proto.Uint64(0) }),
		"too large":          shm(judgement{malformed: "too large"}, func(e *ipc_shm.IpcShmEntry) { e.Size = proto.Uint64(1 << 63) }),
		"smaller than pages": shm(judgement{malformed: "end beyond"}, func(e *ipc_shm.IpcShmEntry) { e.Size = proto.Uint64(criutest.Page) }),
		"content elsewhere":  shm(judgement{malformed: "content elsewhere"}, func(e *ipc_shm.IpcShmEntry) { e.InPagemaps = nil }),
		"huge pages":         shm(judgement{refused: "huge pages"}, func(e *ipc_shm.IpcShmEntry) { e.HugetlbFlag = proto.Uint32(0o4000) }),
		"huge pages with the capability": {change: func(files map[string]string, s *specs.Spec) {
			s.Process.User.UID = 0
			s.Process.Capabilities.Bounding, s.Process.Capabilities.Permitted = []string{"CAP_IPC_LOCK"}, []string{"CAP_IPC_LOCK"}
			change(files, "ipcns-shm-2.img", "IPCNS_SHM", func(e *ipc_shm.IpcShmEntry) { e.HugetlbFlag = proto.Uint32(0o4000) })
		}},
		"twice": with("ipcns-shm-2.img", criutest.Image("IPCNS_SHM", segment(4, func(*ipc_shm.IpcShmEntry) {}), segment(4, func(*ipc_shm.IpcShmEntry) {})), "comes twice"),
		"on the node": {
			change: func(_ map[string]string, s *specs.Spec) { host(s) }, refused: "System V IPC: objects: found 4, allowed 0",
		},
		"nothing on the node": {change: func(files map[string]string, s *specs.Spec) {
			host(s)
			for name := range files {
				if strings.HasPrefix(name, "ipcns-") || name == "pagemap-shmem-4.img" || name == "pages-30.img" {
					delete(files, name)
				}
			}
		}},
		"message missing":     with("ipcns-msg-2.img", criutest.Image("IPCNS_MSG", queue(1)), "1 messages are missing"),
		"message too long":    with("ipcns-msg-2.img", criutest.Image("IPCNS_MSG", queue(1))+message+strings.Repeat("x", 8200), "8193 bytes"),
		"message cut off":     with("ipcns-msg-2.img", withIPC()["ipcns-msg-2.img"][:60], "ipcns-msg-2.img"),
		"too many messages":   with("ipcns-msg-2.img", criutest.Image("IPCNS_MSG", queue(1<<31)), "messages"),
		"mode of a queue":     with("ipcns-msg-2.img", criutest.Image("IPCNS_MSG", &ipc_msg.IpcMsgEntry{Desc: ipcDesc(1, 0o2600), Qbytes: proto.Uint32(1), Qnum: proto.Uint32(0)}), "mode"),
		"no semaphores":       with("ipcns-sem-2.img", criutest.Image("IPCNS_SEM", semaphores(0)), "0 semaphores"),
		"too many semaphores": with("ipcns-sem-2.img", criutest.Image("IPCNS_SEM", semaphores(1<<31)), "semaphores"),
		"semaphores cut off":  with("ipcns-sem-2.img", criutest.Image("IPCNS_SEM", semaphores(300)), "ipcns-sem-2.img"),
		"not such an image":   with("ipcns-sem-2.img", criutest.Image("IPCNS_SHM"), "magic"),
	})
}
