package dump

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	ipc_desc "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-desc"
	ipc_shm "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

func desc(id, key uint32) *ipc_desc.IpcDescEntry {
	zero := proto.Uint32(0)
	return &ipc_desc.IpcDescEntry{Key: &key, Uid: zero, Gid: zero, Cuid: zero, Cgid: zero, Mode: proto.Uint32(0o600), Id: &id}
}

func segment(id uint32) *ipc_shm.IpcShmEntry {
	return &ipc_shm.IpcShmEntry{Desc: desc(id, 100+id), Size: proto.Uint64(criutest.Page), InPagemaps: proto.Bool(true)}
}

// withSegments is a dump of a process that has attached segment 5, in a pod that has the segments 4, 5 and 6.
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
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func segmentsOf(t *testing.T, dir string) []uint32 {
	t.Helper()
	images, err := criu.OpenImages(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	segments, err := criu.Entries[*ipc_shm.IpcShmEntry](images, criu.IPCName("shm", 2), "IPCNS_SHM")
	if err != nil {
		t.Fatal(err)
	}
	var all []uint32
	for _, e := range segments {
		all = append(all, e.GetDesc().GetId())
	}
	return all
}

func TestDropSegments(t *testing.T) {
	dir := withSegments(t)
	if got, want := segmentsOf(t, dir), []uint32{4, 5, 6}; !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for range 2 { // the second time nothing is left to do
		if err := dropSegments(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if got, want := segmentsOf(t, dir), []uint32{5}; !slices.Equal(got, want) {
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
