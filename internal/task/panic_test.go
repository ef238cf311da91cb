package task

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oom"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/internal/turn"
)

// mistaken is a watcher for OOM kills that panics, which is after the processes run.
type mistaken struct{ oom.Watcher }

func (mistaken) Add(string, any) error { panic("a mistake") }

// Whatever panics in a start: nothing of the restore is left, nobody's turn is kept, and containerd lives.
func TestStartSurvivesAPanic(t *testing.T) {
	for name, arrange := range map[string]func(w *world, pid int){
		"while CRIU restores": func(w *world, _ int) {
			w.inner.start = func(context.Context, *api.StartRequest) (*api.StartResponse, error) { panic("a mistake") }
		},
		"when the processes run": func(w *world, pid int) {
			w.inner.start = func(context.Context, *api.StartRequest) (*api.StartResponse, error) {
				return &api.StartResponse{Pid: uint32(pid)}, nil
			}
			w.tasks.bound.Load().cgroups.watcher = mistaken{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.store.Turns = turn.New(1)
			rec := w.restored("c1", nil)
			w.bind()
			child := process(t)
			w.inner.pids = map[string][]uint32{"c1": {uint32(child.Process.Pid)}}
			arrange(w, child.Process.Pid)
			_, err := w.tasks.Start(w.ctx, &api.StartRequest{ContainerID: "c1"})
			wantStatus(t, err, codes.Internal, "panic: a mistake")
			if !killed(t, child) {
				t.Error("a process of the failed restore is still there")
			}
			if !w.record("c1").Ended || exists(t, w.store.Dirs.Archive(rec.ID)) {
				t.Error("what the restore needed was not given back")
			}
			again, err := w.store.Turns.Take(w.ctx, rec.Namespace)
			check(t, err)
			again.Done()
		})
	}
}

func TestOtherCallsSurviveAPanic(t *testing.T) {
	w := newWorld(t)
	rec := w.restored("c1", nil)
	w.container("ordinary", nil)
	w.bind()
	w.inner.create = func(*api.CreateTaskRequest) (*api.CreateTaskResponse, error) { panic("a mistake") }
	w.inner.remove = func(*api.DeleteTaskRequest) (*api.DeleteResponse, error) { panic("a mistake") }
	w.inner.metrics = func(*api.MetricsRequest) (*api.MetricsResponse, error) { panic("a mistake") }
	_, err := w.tasks.Create(w.ctx, request("ordinary", nil))
	wantStatus(t, err, codes.Internal, "panic: a mistake")
	_, err = w.tasks.Create(w.ctx, request("c1", nil))
	wantStatus(t, err, codes.Internal, "panic: a mistake")
	if !w.record("c1").Ended || exists(t, w.store.Dirs.Archive(rec.ID)) {
		t.Error("what the restore needed was not given back")
	}
	_, err = w.tasks.Delete(w.ctx, &api.DeleteTaskRequest{ContainerID: "c1"})
	wantStatus(t, err, codes.Internal, "panic: a mistake")
	_, err = w.tasks.Metrics(w.ctx, &api.MetricsRequest{})
	wantStatus(t, err, codes.Internal, "panic: a mistake")
}

// One container that cannot be put right when containerd starts does not keep the others from it, or containerd from
// starting.
func TestRecoverGoesOnAfterAPanic(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"a", "b", "c"} {
		w.restored(id, nil)
	}
	w.inner.tasks = map[string]*tasktypes.Process{"a": {Status: tasktypes.Status_CREATED}, "b": nil,
		"c": {Status: tasktypes.Status_CREATED}}
	w.bind()
	for id, want := range map[string]bool{"a": true, "b": false, "c": true} {
		if got := w.inner.made("delete " + id); got != want {
			t.Errorf("%s: task deleted: %t", id, got)
		}
	}
	w.capture()
	_, err := w.tasks.Create(w.ctx, request("a", nil))
	check(t, err)
}

// TestHoldLock is no test but a process that holds the lock of a page server, for the next one.
func TestHoldLock(t *testing.T) {
	name := os.Getenv("TEST_HOLD_LOCK")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	check(t, err)
	check(t, unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	_, err = os.Stdout.WriteString("locked\n")
	check(t, err)
	_, err = io.Copy(io.Discard, os.Stdin)
	check(t, err)
}

// forgetful is a store that panics once a page server has ended.
type forgetful struct {
	containers.Store
	ended chan struct{}
}

func (s forgetful) Get(ctx context.Context, id string) (containers.Container, error) {
	select {
	case <-s.ended:
		panic("a mistake")
	default:
		return s.Store.Get(ctx, id)
	}
}

type lines chan string

func (lines) Levels() []logrus.Level { return logrus.AllLevels }

func (l lines) Fire(e *logrus.Entry) error {
	if err, ok := e.Data[logrus.ErrorKey].(error); ok {
		l <- err.Error()
	}
	return nil
}

// What looks after a lazy restore in the background may panic.
func TestSettleSurvivesAPanic(t *testing.T) {
	w := newWorld(t)
	rec := w.restored("c1", nil)
	check(t, w.store.Drain(w.ctx, "c1"))
	holder := exec.Command(os.Args[0], "-test.run=^TestHoldLock$")
	holder.Env = append(os.Environ(), "TEST_HOLD_LOCK="+filepath.Join(w.store.Dirs.Work(rec.ID), "page-server.lock"))
	stdin, err := holder.StdinPipe()
	check(t, err)
	stdout, err := holder.StdoutPipe()
	check(t, err)
	check(t, holder.Start())
	_, err = io.ReadFull(stdout, make([]byte, len("locked\n")))
	check(t, err)
	ended := make(chan struct{})
	w.store.Containers = forgetful{w.store.Containers, ended}
	l, logged := logrus.New(), make(lines, 64)
	l.SetOutput(io.Discard)
	l.AddHook(logged)
	w.ctx = log.WithLogger(w.ctx, logrus.NewEntry(l))
	w.bind()
	close(ended)
	check(t, errors.Join(stdin.Close(), holder.Wait()))
	for line := range logged {
		if strings.Contains(line, "settle lazy restore: panic: a mistake") {
			break
		}
	}
}
