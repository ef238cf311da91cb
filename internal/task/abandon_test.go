package task

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cri-restore/cri-restore/internal/restore"
)

// cgroupDirs returns the directories of a cgroup, in whatever hierarchy.
func cgroupDirs(t *testing.T, name string) (dirs []string) {
	t.Helper()
	hierarchies, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	check(t, err)
	for _, h := range hierarchies {
		if dir := filepath.Join(h.Mountpoint, name); exists(t, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// runc was killed: it knows no process, and CRIU goes on in the container's cgroup.
func TestProcessesThatRuncDoesNotKnow(t *testing.T) {
	id := strings.ReplaceAll(restore.NewID()+restore.NewID(), "-", "")
	name := "/cri-restore-test-" + id
	w := newWorld(t)
	w.restored(id, nil)
	_, err := w.store.Containers.Update(w.ctx, containers.Container{
		ID: id, Spec: jsonAny("spec", `{"linux":{"cgroupsPath":"`+name+`"}}`),
	}, "spec")
	check(t, err)
	w.bind()
	inside, _ := confinedIn(t, name, 64*mib)
	outside := process(t)
	other, _ := confinedIn(t, "/cri-restore-test-"+strings.ReplaceAll(restore.NewID()+restore.NewID(), "-", ""), 64*mib)
	if len(cgroupDirs(t, name)) == 0 {
		t.Fatal("no cgroup")
	}
	broken := errors.New("runc was killed")
	w.inner.start = func(context.Context, *api.StartRequest) (*api.StartResponse, error) { return nil, broken }
	if _, err := w.tasks.Start(w.ctx, &api.StartRequest{ContainerID: id}); err == nil ||
		!strings.Contains(err.Error(), "runc was killed") {
		t.Errorf("%v", err)
	}
	if !killed(t, inside) {
		t.Error("a process in the container's cgroup is still there")
	}
	if killed(t, outside) || killed(t, other) {
		t.Error("a process outside the container's cgroup was killed")
	}
	if left := cgroupDirs(t, name); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

// A spec does not say what else may be removed.
func TestRemoveCgroupOfNobodyElse(t *testing.T) {
	id := strings.ReplaceAll(restore.NewID()+restore.NewID(), "-", "")
	hierarchies, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	check(t, err)
	name := "/cri-restore-test-" + restore.NewID()
	dir := filepath.Join(hierarchies[0].Mountpoint, name)
	check(t, os.Mkdir(dir, 0o755))
	defer os.Remove(dir)
	for _, spec := range []string{
		`{"linux":{"cgroupsPath":"` + name + `"}}`, `{"linux":{"cgroupsPath":"system.slice:cri-containerd:` + id + `"}}`,
		`{"linux":{}}`, `{}`,
	} {
		check(t, removeCgroup(&containers.Container{ID: id, Spec: jsonAny("spec", spec)}))
	}
	check(t, removeCgroup(&containers.Container{ID: id}))
	if !exists(t, dir) {
		t.Error("the cgroup of another was removed")
	}
	if err := removeCgroup(&containers.Container{ID: id, Spec: jsonAny("spec", "{")}); err == nil ||
		!strings.Contains(err.Error(), id) {
		t.Errorf("%v", err)
	}
}

// The caller gives up while the restore goes on: it is killed, and runc's own failure is awaited.
func TestCallerThatIsGone(t *testing.T) {
	w := newWorld(t)
	rec := w.restored("c1", nil)
	w.bind()
	child := process(t)
	w.inner.pids = map[string][]uint32{"c1": {uint32(child.Process.Pid)}}
	ctx, cancel := context.WithCancelCause(w.ctx)
	defer cancel(nil)
	w.inner.start = func(ctx context.Context, _ *api.StartRequest) (*api.StartResponse, error) {
		cancel(errors.New("the kubelet has waited long enough"))
		_ = child.Wait() // runc does so for CRIU
		if ctx.Err() != nil {
			t.Errorf("the shim was told: %v", ctx.Err())
		}
		if !exists(t, w.store.Dirs.Work(rec.ID)) {
			t.Error("the work directory is gone before runc is done")
		}
		return nil, status.Error(codes.Unknown, "runc: criu failed")
	}
	_, err := w.tasks.Start(ctx, &api.StartRequest{ContainerID: "c1"})
	wantStatus(t, err, codes.Unknown, "the kubelet has waited long enough", "runc: criu failed")
	if !w.record("c1").Ended || exists(t, w.store.Dirs.Work(rec.ID)) {
		t.Error("what the restore needed was not given back")
	}
}

// The caller gave up, but the restore was done.
func TestCallerThatIsGoneTooLate(t *testing.T) {
	w := newWorld(t)
	w.restored("c1", nil)
	w.bind()
	ctx, cancel := context.WithCancel(w.ctx)
	w.inner.start = func(context.Context, *api.StartRequest) (*api.StartResponse, error) {
		cancel()
		return &api.StartResponse{Pid: uint32(os.Getpid())}, nil
	}
	resp, err := w.tasks.Start(ctx, &api.StartRequest{ContainerID: "c1"})
	check(t, err)
	if resp.Pid != uint32(os.Getpid()) || !w.record("c1").Ended {
		t.Errorf("%v, %+v", resp, w.record("c1"))
	}
}

// On a node that does not restore any more a container must not begin anew.
func TestGuard(t *testing.T) {
	w := newWorld(t)
	w.restored("pending", nil)
	w.restored("ended", nil)
	check(t, w.store.End(w.ctx, "ended"))
	w.restored("newer", nil)
	w.extension("newer", "org.criu.restore/record", `{"version":99}`)
	w.container("unfinished", nil)
	w.extension("unfinished", "org.criu.restore/origin", `{"id":"x"}`)
	w.container("ordinary", nil)
	w.tasks.Guard(w.store.Containers, errdefs.ErrNotFound.WithMessage("no criu in PATH"))
	got := w.capture()
	for id, refused := range map[string]bool{"pending": true, "newer": true, "unfinished": true, "ended": false,
		"ordinary": false, "unknown": false} {
		r := request(id, nil)
		_, err := w.tasks.Create(w.ctx, r)
		if !refused {
			check(t, err)
			if *got != r {
				t.Errorf("%s: the request became %v", id, *got)
			}
			continue
		}
		wantStatus(t, err, codes.FailedPrecondition, id, "no criu in PATH")
		if w.inner.made("create " + id) {
			t.Errorf("%s: the task was created all the same", id)
		}
	}
}
