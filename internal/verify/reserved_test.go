package verify

import (
	"maps"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// What is reserved is found in all processes, and the process with most of it counts.
func TestReserved(t *testing.T) {
	const anonymous, shared = 0x201, 0x101
	at := func(status, flags, prot uint32) func(*vma.VmaEntry) {
		return func(e *vma.VmaEntry) {
			e.Status, e.Flags, e.Prot = proto.Uint32(status), proto.Uint32(flags), proto.Uint32(prot)
		}
	}
	p := criutest.Page
	images := criutest.Checkpoint(criutest.Task{PID: 1}, criutest.Task{PID: 2, Parent: 1})
	maps.Copy(images, criutest.Memory(1, 1, nil,
		criutest.Mapping(1<<32, 1000, at(anonymous, 0x22, 0)), criutest.Mapping(2<<32, 100, at(anonymous, 0x22, 1)),
		criutest.Mapping(3<<32, 5000, at(anonymous, 0x22, 3)), criutest.Mapping(4<<32, 6000, at(anonymous, 0x4022, 0)),
		criutest.Mapping(5<<32, 7000, at(shared, 0x21, 0), func(e *vma.VmaEntry) { e.Shmid = proto.Uint64(9) })))
	maps.Copy(images, criutest.Memory(2, 2, nil, criutest.Mapping(1<<32, 1050, at(anonymous, 0x22, 0))))
	report, err := layout(t, images, strictPod(t))
	if err != nil || report.Err() != nil {
		t.Fatalf("%v, %v", err, report.Err())
	}
	if got, want := report.Reserved, (Reserved{Largest: 1050 * p, All: 1100 * p}); got != want {
		t.Errorf("got %d and %d pages, want %d and %d", got.Largest/p, got.All/p, want.Largest/p, want.All/p)
	}
}
