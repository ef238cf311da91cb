package task

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestStartWhoseCRIUIsKilled: runc does not return before what CRIU had made is gone, and here it never does before.
// So that is killed when CRIU has ended, and not when runc has.
func TestStartWhoseCRIUIsKilled(t *testing.T) {
	w := newWorld(t)
	rec := w.restored("c1", nil)
	w.bind()
	criu, made := process(t), process(t)
	w.inner.pids = map[string][]uint32{"c1": {uint32(made.Process.Pid)}}
	w.inner.start = func(context.Context, *api.StartRequest) (*api.StartResponse, error) {
		fifo := filepath.Join(w.store.Dirs.Guard(rec.ID), "criu")
		check(t, os.WriteFile(fifo, fmt.Appendln(nil, criu.Process.Pid), 0))
		check(t, criu.Process.Kill())
		_ = criu.Wait()
		_ = made.Wait()
		if status := made.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
			t.Errorf("it has ended by itself: %v", status)
		}
		return nil, status.Error(codes.Unknown, "runc: criu failed")
	}
	_, err := w.tasks.Start(w.ctx, &api.StartRequest{ContainerID: "c1"})
	wantStatus(t, err, codes.Unknown, "container c1", "criu failed")
}

// TestStartWhoseCRIUEnds: what is restored runs on when CRIU has done its work.
func TestStartWhoseCRIUEnds(t *testing.T) {
	w := newWorld(t)
	rec := w.restored("c1", nil)
	w.bind()
	criu, made := process(t), process(t)
	w.inner.pids = map[string][]uint32{"c1": {uint32(made.Process.Pid)}}
	w.inner.start = func(context.Context, *api.StartRequest) (*api.StartResponse, error) {
		dir := w.store.Dirs.Guard(rec.ID)
		check(t, os.WriteFile(filepath.Join(dir, "criu"), fmt.Appendln(nil, criu.Process.Pid), 0))
		check(t, os.WriteFile(filepath.Join(dir, "verdict.json"), []byte(w.inner.verdict), 0o600))
		check(t, criu.Process.Kill())
		_ = criu.Wait()
		return &api.StartResponse{Pid: uint32(made.Process.Pid)}, nil
	}
	_, err := w.tasks.Start(w.ctx, &api.StartRequest{ContainerID: "c1"})
	check(t, err)
	if killed(t, made) {
		t.Error("the restored process is gone")
	}
}
