package task

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// process is a child that runs until it is killed.
func process(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	check(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

// killed reports whether the child was killed. It waits for no other end.
func killed(t *testing.T, cmd *exec.Cmd) bool {
	t.Helper()
	var info unix.Siginfo
	check(t, unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil))
	if info.Signo == 0 {
		return false
	}
	_ = cmd.Wait()
	return cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

func mountedBelow(t *testing.T, dir string) int {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	check(t, err)
	return len(infos)
}

// leave mounts something in the work directory, as a killed runc does, with a file in it.
func (w *world) leave(id string) (dir string) {
	w.t.Helper()
	dir = filepath.Join(w.store.Dirs.Work(w.record(id).ID), ".criu.cgyard.x")
	check(w.t, os.MkdirAll(dir, 0o700))
	check(w.t, unix.Mount("test", dir, "tmpfs", 0, ""))
	w.t.Cleanup(func() {
		for mountedBelow(w.t, dir) > 0 {
			w.t.Error("still mounted")
			check(w.t, unix.Unmount(dir, unix.MNT_DETACH))
		}
	})
	return dir
}

func TestStart(t *testing.T) {
	w := newWorld(t)
	rec := w.restored("c1", nil)
	w.bind()
	r := &api.StartRequest{ContainerID: "c1"}
	w.inner.start = func(_ context.Context, got *api.StartRequest) (*api.StartResponse, error) {
		if got != r {
			t.Errorf("request %v", got)
		}
		if !exists(t, w.store.Dirs.Archive(rec.ID)) {
			t.Error("the checkpoint is gone before the restore")
		}
		return &api.StartResponse{Pid: uint32(os.Getpid())}, nil
	}
	w.leave("c1")
	resp, err := w.tasks.Start(w.ctx, r)
	check(t, err)
	if resp.Pid != uint32(os.Getpid()) {
		t.Errorf("%v", resp)
	}
	if !w.record("c1").Ended || exists(t, w.store.Dirs.Archive(rec.ID)) || exists(t, w.store.Dirs.Work(rec.ID)) {
		t.Error("what the restore needed was not given back")
	}
}

// A restore that fails is told in CRIU's words and takes back everything,
// whether its caller still waits or not.
func TestStartThatFails(t *testing.T) {
	for _, code := range []codes.Code{codes.Unknown, codes.Internal, codes.Canceled, codes.DeadlineExceeded} {
		t.Run(code.String(), func(t *testing.T) {
			w := newWorld(t)
			rec := w.restored("c1", nil)
			w.bind()
			ctx, cancel := context.WithCancel(w.ctx)
			defer cancel()
			child := process(t)
			w.inner.pids = map[string][]uint32{"c1": {uint32(child.Process.Pid), 1 << 30}}
			w.leave("c1")
			w.inner.start = func(context.Context, *api.StartRequest) (*api.StartResponse, error) {
				check(t, os.WriteFile(filepath.Join(w.store.Dirs.Work(rec.ID), "restore.log"),
					[]byte("(00.1) Error (criu/x.c:7): No such thing\n"), 0o600))
				cancel()
				return nil, status.Error(code, "runc: criu failed: type NOTIFY errno 0")
			}
			_, err := w.tasks.Start(ctx, &api.StartRequest{ContainerID: "c1"})
			kept := filepath.Join(w.store.Logs.Dir, "c1-restore.log")
			wantStatus(t, err, code, "container c1", "type NOTIFY", "Error (criu/x.c:7): No such thing", kept)
			if !exists(t, kept) {
				t.Error("the log was not kept")
			}
			if !killed(t, child) {
				t.Error("a process of the failed restore is still there")
			}
			if !w.record("c1").Ended || exists(t, w.store.Dirs.Archive(rec.ID)) || exists(t, w.store.Dirs.Work(rec.ID)) {
				t.Error("what the restore needed was not given back")
			}
			if len(w.tasks.bound.Load().cgroups.ids()) > 0 {
				t.Error("its cgroup is watched")
			}
		})
	}
}

// The record says why a restore failed, for the container that comes next, but not that its caller had gone: another
// try may end well.
func TestStartNotesItsFailure(t *testing.T) {
	for _, gone := range []bool{false, true} {
		w := newWorld(t)
		rec := w.restored("c1", nil)
		w.bind()
		ctx, cancel := context.WithCancel(w.ctx)
		w.inner.start = func(context.Context, *api.StartRequest) (*api.StartResponse, error) {
			check(t, os.WriteFile(filepath.Join(w.store.Dirs.Work(rec.ID), "restore.log"),
				[]byte("(00.1) Error (criu/x.c:7): No such thing\n"), 0o600))
			if gone {
				cancel()
			}
			return nil, status.Error(codes.Unknown, "runc: criu failed: type NOTIFY errno 0")
		}
		_, err := w.tasks.Start(ctx, &api.StartRequest{ContainerID: "c1"})
		cancel()
		got := w.record("c1")
		if err == nil || !got.Ended || strings.Contains(got.Failure, "No such thing") == gone || (got.Failure == "") != gone {
			t.Errorf("caller gone %t: %v, record %+v", gone, err, got)
		}
	}
}

func TestStartsThatAreNoRestore(t *testing.T) {
	failure := status.Error(codes.FailedPrecondition, "cannot start a running process")
	for name, c := range map[string]struct {
		arrange func(w *world)
		request *api.StartRequest
	}{
		"not bound": {func(w *world) { w.restored("c1", nil) }, &api.StartRequest{ContainerID: "c1"}},
		"ordinary":  {func(w *world) { w.container("c1", nil); w.bind() }, &api.StartRequest{ContainerID: "c1"}},
		"unknown":   {func(w *world) { w.bind() }, &api.StartRequest{ContainerID: "c1"}},
		"exec": {func(w *world) { w.restored("c1", nil); w.bind() },
			&api.StartRequest{ContainerID: "c1", ExecID: "e"}},
		"a second start": {func(w *world) { w.restored("c1", nil); check(w.t, w.store.End(w.ctx, "c1")); w.bind() },
			&api.StartRequest{ContainerID: "c1"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.arrange(w)
			child := process(t)
			w.inner.pids = map[string][]uint32{"c1": {uint32(child.Process.Pid)}}
			for _, want := range []error{nil, failure} {
				w.inner.start = func(_ context.Context, r *api.StartRequest) (*api.StartResponse, error) {
					if r != c.request {
						t.Errorf("request %v", r)
					}
					return &api.StartResponse{Pid: 7}, want
				}
				if _, err := w.tasks.Start(w.ctx, c.request); !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
			}
			if killed(t, child) {
				t.Error("a running process was killed")
			}
		})
	}
}

func TestDeleteDetachesFirst(t *testing.T) {
	w := newWorld(t)
	w.restored("c1", nil)
	w.container("ordinary", nil)
	w.bind()
	dir := w.leave("c1")
	w.inner.remove = func(r *api.DeleteTaskRequest) (*api.DeleteResponse, error) {
		if n := mountedBelow(t, dir); r.ContainerID == "c1" && n > 0 {
			t.Errorf("%d mounts when the task is deleted", n)
		}
		return &api.DeleteResponse{ExitStatus: 3}, nil
	}
	for _, id := range []string{"c1", "ordinary", "unknown"} {
		resp, err := w.tasks.Delete(w.ctx, &api.DeleteTaskRequest{ContainerID: id})
		if err != nil || resp.ExitStatus != 3 || !w.inner.made("delete "+id) {
			t.Errorf("%s: %v, %v", id, resp, err)
		}
	}
}

// After a restart of containerd: what runs is watched, what was cut off can be started again.
func TestRecover(t *testing.T) {
	w := newWorld(t)
	w.container("ordinary", nil)
	for _, id := range []string{"running", "cut-off", "not-started", "newer", "stopped"} {
		w.restored(id, nil)
	}
	w.extension("newer", "org.criu.restore/record", `{"version":99}`)
	child, other := process(t), process(t)
	pid := func(cmd *exec.Cmd) uint32 { return uint32(cmd.Process.Pid) }
	w.inner.tasks = map[string]*tasktypes.Process{
		"ordinary": {Status: tasktypes.Status_CREATED, Pid: pid(other)},
		"running":  {Status: tasktypes.Status_RUNNING, Pid: pid(other)},
		"stopped":  {Status: tasktypes.Status_STOPPED},
		"cut-off":  {Status: tasktypes.Status_CREATED},
		"newer":    {Status: tasktypes.Status_CREATED},
	}
	w.inner.pids = map[string][]uint32{"cut-off": {pid(child)}, "ordinary": {pid(other)}, "newer": {pid(other)}}
	dir := w.leave("cut-off")
	w.inner.remove = func(*api.DeleteTaskRequest) (*api.DeleteResponse, error) {
		if n := mountedBelow(t, dir); n > 0 {
			t.Errorf("%d mounts when the task is deleted", n)
		}
		if !killed(t, child) {
			t.Error("a process of the restore is still there")
		}
		return nil, errNoTask
	}
	w.bind()
	for id, want := range map[string]bool{"cut-off": true, "ordinary": false, "running": false, "not-started": false,
		"newer": false, "stopped": false} {
		if got := w.inner.made("delete " + id); got != want {
			t.Errorf("%s: task deleted: %t", id, got)
		}
	}
	for id, want := range map[string]bool{"running": true, "stopped": true, "cut-off": false, "not-started": false} {
		if got := w.record(id).Ended; got != want {
			t.Errorf("%s: ended: %t", id, got)
		}
	}
	if killed(t, other) {
		t.Error("a process was killed that is none of a restore that was cut off")
	}
	w.capture()
	_, err := w.tasks.Create(w.ctx, request("cut-off", nil))
	check(t, err)
}

func TestBindNeedsANamespace(t *testing.T) {
	w := newWorld(t)
	if err := w.tasks.Bind(context.Background(), w.store, w.oom); err == nil {
		t.Error("bound without a namespace")
	}
}
