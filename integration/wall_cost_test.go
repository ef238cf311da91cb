package integration

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/eventpoll"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// deepPath is as long as a path can be, with as many elements as there can be.
func deepPath(number int) string {
	return fmt.Sprintf("/tmp/%08d", number) + strings.Repeat("/a", 2000)
}

// costs are checkpoints that take little to write and much to judge.
var costs = map[string]func(*imageEditor){
	"deep paths": func(e *imageEditor) {
		e.Files(func(all []*fdinfo.FileEntry) []*fdinfo.FileEntry {
			i := slices.IndexFunc(all, func(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == "/" })
			for n := range 3000 {
				f := proto.Clone(all[i]).(*fdinfo.FileEntry)
				f.Id = proto.Uint32(firstForged + uint32(n))
				f.Reg.Id, f.Reg.Name = f.Id, proto.String(deepPath(n))
				all = append(all, f)
			}
			return all
		})
	},
	"deep mounts": func(e *imageEditor) {
		e.Mounts(func(all []*mnt.MntEntry) []*mnt.MntEntry {
			root := mountAt(all, "/dev/shm")
			for n := range 3000 {
				m := proto.Clone(root).(*mnt.MntEntry)
				m.MntId, m.Mountpoint = proto.Uint32(100_000+uint32(n)), proto.String(deepPath(n))
				all = append(all, m)
			}
			return all
		})
	},
	"epoll": func(e *imageEditor) {
		const id = 900
		poll := &eventpoll.EventpollFileEntry{Id: proto.Uint32(id), Flags: proto.Uint32(unix.O_RDWR), Fown: &fown.FownEntry{
			Uid: proto.Uint32(0), Euid: proto.Uint32(0), Signum: proto.Uint32(0), PidType: proto.Uint32(0), Pid: proto.Uint32(0),
		}}
		for n := range uint32(400_000) {
			poll.Tfd = append(poll.Tfd, &eventpoll.EventpollTfdEntry{
				Id: proto.Uint32(id), Tfd: proto.Uint32(n), Events: proto.Uint32(1), Data: proto.Uint64(0),
			})
		}
		addFile(e, &fdinfo.FileEntry{Type: fdinfo.FdTypes_EVENTPOLL.Enum(), Epfd: poll})
	},
	"chain of filters": func(e *imageEditor) {
		entry := &seccomp.SeccompEntry{}
		const last = 6552
		for n := range uint32(last + 1) {
			program := binary.LittleEndian.AppendUint32([]byte{unix.BPF_RET | unix.BPF_K, 0, 0, 0}, unix.SECCOMP_RET_ALLOW|n)
			f := &seccomp.SeccompFilter{Filter: program, Flags: proto.Uint32(0)}
			if n > 0 {
				f.Prev = proto.Uint32(n - 1)
			}
			entry.SeccompFilters = append(entry.SeccompFilters, f)
		}
		e.Add("seccomp.img", "SECCOMP", entry)
		e.EachThread(func(_ uint32, core *criu_core.CoreEntry) { core.ThreadCore.SeccompFilter = proto.Uint32(last) })
	},
}

// TestWallCost: more restores than work at a time, each of which takes as much work as a checkpoint of some megabytes
// can. All are answered, and a pod of another namespace restores meanwhile.
func TestWallCost(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	k := w.restrictedCheckpoint(t, harness.Busybox, harness.Shell(counting))
	for name, change := range costs {
		t.Run(name, func(t *testing.T) {
			w.answersAll(t, k, editImages(t, k.archive, change), func(t *testing.T, err error) {
				if code := status.Code(err); !slices.Contains([]codes.Code{
					codes.PermissionDenied, codes.InvalidArgument, codes.ResourceExhausted, codes.FailedPrecondition,
				}, code) {
					t.Errorf("a restore was not refused: %v", err)
				}
			})
		})
	}
}

// answersAll tries more restores of a checkpoint at a time than work, and one of an honest one in another namespace
// meanwhile, which has to succeed.
func (w *wall) answersAll(t *testing.T, k taken, bad string, refused func(*testing.T, error)) {
	t.Helper()
	var answers [5]error
	var all sync.WaitGroup
	attacker, other := w.n.Pod(t, harness.PodNamespace("attacker")), w.n.Pod(t, harness.PodNamespace("victim"))
	for i := range answers {
		all.Go(func() { _, answers[i] = attacker.TryCreate(fmt.Sprintf("cost-%d", i), bad, restricted(appUser)...) })
	}
	requireContinues(t, other.Run("honest", k.archive, restricted(appUser)...), k.counted)
	all.Wait()
	for _, err := range answers {
		refused(t, err)
	}
}
