package dump

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ipc_desc "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-desc"
	ipc_msg "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-msg"
	ipc_sem "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-sem"
	ipc_shm "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
	"github.com/cri-restore/cri-restore/internal/sysv"
)

func desc(id, key uint32) *ipc_desc.IpcDescEntry {
	zero := proto.Uint32(0)
	return &ipc_desc.IpcDescEntry{Key: &key, Uid: zero, Gid: zero, Cuid: zero, Cgid: zero, Mode: proto.Uint32(0o600), Id: &id}
}

func segment(id uint32) *ipc_shm.IpcShmEntry {
	return &ipc_shm.IpcShmEntry{Desc: desc(id, 100+id), Size: proto.Uint64(criutest.Page), InPagemaps: proto.Bool(true)}
}

// withSegments is a dump of a process that has attached segment 5, in a pod that has the segments 4, 5 and 6, a queue and a semaphore set.
func withSegments(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	files := criutest.Checkpoint(criutest.Task{PID: 1})
	own := criutest.Memory(1, 1, []criutest.Range{{Start: criutest.Heap, Pages: 2}}, criutest.Mapping(criutest.Heap, 4),
		criutest.Mapping(criutest.Stack, 1, func(e *vma.VmaEntry) {
			e.Status, e.Flags, e.Shmid = proto.Uint32(0x501), proto.Uint32(0x21), proto.Uint64(5)
		}))
	for name, content := range own {
		files[name] = content
	}
	files["ipcns-shm-2.img"] = criutest.Image("IPCNS_SHM", segment(4), segment(5), segment(6))
	for id, pagemap := range map[uint32]string{31: "pagemap-shmem-4.img", 32: "pagemap-shmem-5.img", 33: "pagemap-shmem-6.img"} {
		for name, content := range criutest.Pages(pagemap, "PAGEMAP", id, criutest.Range{Start: 0, Pages: 1}) {
			files[name] = content
		}
	}
	message := criutest.Image("IPCNS_MSG", &ipc_msg.IpcMsg{Mtype: proto.Uint64(1), Msize: proto.Uint32(5)})[8:] + "hello\x00\x00\x00"
	queue := &ipc_msg.IpcMsgEntry{Desc: desc(7, 107), Qbytes: proto.Uint32(16384), Qnum: proto.Uint32(1)}
	files["ipcns-msg-2.img"] = criutest.Image("IPCNS_MSG", queue) + message
	files["ipcns-sem-2.img"] = criutest.Image("IPCNS_SEM", &ipc_sem.IpcSemEntry{Desc: desc(8, 108), Nsems: proto.Uint32(3)}) + strings.Repeat("\x00", 8)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func objectsOf(t *testing.T, dir string) []sysv.Object {
	t.Helper()
	images, err := criu.OpenImages(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	all, err := images.IPCObjects()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDropSegments(t *testing.T) {
	dir := withSegments(t)
	others := []sysv.Object{{Kind: sysv.Queue, ID: 7, Key: 107}, {Kind: sysv.Semaphores, ID: 8, Key: 108}}
	shm := func(id uint32) sysv.Object { return sysv.Object{Kind: sysv.Segment, ID: id, Key: 100 + id} }
	if got, want := objectsOf(t, dir), append([]sysv.Object{shm(4), shm(5), shm(6)}, others...); !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for range 2 { // the second time nothing is left to do
		if err := dropSegments(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if got, want := objectsOf(t, dir), append([]sysv.Object{shm(5)}, others...); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	for name, want := range map[string]bool{
		"pagemap-shmem-4.img": false, "pages-31.img": false, "pagemap-shmem-5.img": true, "pages-32.img": true, "pagemap-shmem-6.img": false, "pages-33.img": false, "pages-1.img": true,
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %t", name, err, want)
		}
	}
}
