package criu_test

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

func TestReserved(t *testing.T) {
	at := func(status, flags, prot uint32) func(*vma.VmaEntry) {
		return func(e *vma.VmaEntry) {
			e.Status, e.Flags, e.Prot = proto.Uint32(status), proto.Uint32(flags), proto.Uint32(prot)
		}
	}
	const anonymous, file, shared = 0x201, 0x41, 0x101
	images := criutest.Checkpoint(criutest.Task{PID: 1}, criutest.Task{PID: 2, Parent: 1})
	p := criutest.Page
	maps.Copy(images, criutest.Memory(1, 1, nil,
		criutest.Mapping(1<<32, 1000, at(anonymous, 0x22, 0)), criutest.Mapping(2<<32, 100, at(anonymous, 0x22, 1)),
		criutest.Mapping(3<<32, 10, at(file, 0x2, 1)),
		criutest.Mapping(4<<32, 5000, at(anonymous, 0x22, 3)), criutest.Mapping(5<<32, 6000, at(anonymous, 0x4022, 0)),
		criutest.Mapping(6<<32, 7000, at(shared, 0x21, 0))))
	maps.Copy(images, criutest.Memory(2, 2, nil, criutest.Mapping(1<<32, 1100, at(anonymous, 0x22, 0))))
	dir := t.TempDir()
	for name, content := range images {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opened, err := criu.OpenImages(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if largest, all, err := opened.Reserved(); err != nil || largest != 1100*p || all != 1110*p {
		t.Errorf("largest %d pages, all %d pages, %v", largest/p, all/p, err)
	}
	if err := os.Remove(filepath.Join(dir, "mm-2.img")); err != nil {
		t.Fatal(err)
	}
	again, err := criu.OpenImages(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, _, err := again.Reserved(); err == nil {
		t.Error("an image is missing")
	}
}
