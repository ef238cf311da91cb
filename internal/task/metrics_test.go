package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	cgmode "github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/cgroups/v3/cgroup2"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	apievents "github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cri-restore/cri-restore/internal/cgroup"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// confined is a child in a cgroup of its own with a limit of memory, as runc makes it for a container. It eats
// memory without end when its stdin ends.
func confined(t *testing.T, limit int64) (pid int, stdin io.Closer) {
	t.Helper()
	cmd, stdin := confinedIn(t, fmt.Sprintf("/cri-restore-test-%d-%s", os.Getpid(), restore.NewID()), limit)
	return cmd.Process.Pid, stdin
}

func confinedIn(t *testing.T, name string, limit int64) (cmd *exec.Cmd, stdin io.Closer) {
	t.Helper()
	cmd = exec.Command("sh", "-c", "read x; exec tail /dev/zero")
	in, err := cmd.StdinPipe()
	check(t, err)
	check(t, cmd.Start())
	var remove func() error
	if cgmode.Mode() == cgmode.Unified {
		cg, err := cgroup2.NewManager("/sys/fs/cgroup", name, &cgroup2.Resources{Memory: &cgroup2.Memory{Max: &limit}})
		check(t, err)
		remove = cg.Delete
		check(t, cg.AddProc(uint64(cmd.Process.Pid)))
	} else {
		cg, err := cgroup1.New(cgroup1.StaticPath(name), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
		check(t, err)
		remove = cg.Delete
		check(t, cg.AddProc(uint64(cmd.Process.Pid)))
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		check(t, remove())
	})
	return cmd, in
}

// running is a restored container with a confined process.
func (w *world) running(id string, limit int64) io.Closer {
	w.t.Helper()
	w.restored(id, nil)
	pid, stdin := confined(w.t, limit)
	w.inner.start = func(context.Context, *api.StartRequest) (*api.StartResponse, error) {
		return &api.StartResponse{Pid: uint32(pid)}, nil
	}
	_, err := w.tasks.Start(w.ctx, &api.StartRequest{ContainerID: id})
	check(w.t, err)
	return stdin
}

func (w *world) metrics(filters ...string) map[string]*types.Metric {
	w.t.Helper()
	resp, err := w.tasks.Metrics(w.ctx, &api.MetricsRequest{Filters: filters})
	check(w.t, err)
	out := map[string]*types.Metric{}
	for _, m := range resp.Metrics {
		if out[m.ID] != nil {
			w.t.Errorf("%s twice", m.ID)
		}
		out[m.ID] = m
	}
	return out
}

const mib = 1 << 20

func TestMetricsOfARestoredContainer(t *testing.T) {
	w := newWorld(t).bind()
	before := time.Now()
	w.running("c1", 64*mib)
	m := w.metrics()["c1"]
	if m == nil {
		t.Fatal("none")
	}
	if at := m.Timestamp.AsTime(); at.Before(before) || at.After(time.Now()) {
		t.Errorf("collected at %s", at)
	}
	stats, err := typeurl.UnmarshalAny(m.Data)
	check(t, err)
	switch s := stats.(type) {
	case *v1.Metrics:
		if s.Memory.Usage.Limit != 64*mib || s.Pids.Current != 1 {
			t.Errorf("%v", s)
		}
	case *v2.Metrics:
		if s.Memory.UsageLimit != 64*mib || s.Pids.Current != 1 {
			t.Errorf("%v", s)
		}
	default:
		t.Errorf("%T", s)
	}
}

func TestMetricsFilters(t *testing.T) {
	w := newWorld(t).bind()
	w.running("c1", 64*mib)
	w.running("c2", 64*mib)
	for _, c := range []struct{ filters, want []string }{
		{nil, []string{"c1", "c2"}},
		{[]string{"id==c1"}, []string{"c1"}},
		{[]string{"id~=^c"}, []string{"c1", "c2"}},
		{[]string{"id==c3", "id==c2"}, []string{"c2"}},
		{[]string{"namespace==k8s.io,id==c1"}, []string{"c1"}},
		{[]string{"namespace==moby"}, nil},
		{[]string{"runtime==x"}, nil},
	} {
		var got []string
		for id := range w.metrics(c.filters...) {
			got = append(got, id)
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.filters, got, c.want)
		}
	}
	_, err := w.tasks.Metrics(w.ctx, &api.MetricsRequest{Filters: []string{"=="}})
	if err == nil {
		t.Error("a filter that is none was accepted")
	}
	for name, ctx := range map[string]context.Context{"none": context.Background(),
		"another": namespaces.WithNamespace(t.Context(), "moby")} {
		if resp, err := w.tasks.Metrics(ctx, &api.MetricsRequest{}); err != nil || len(resp.Metrics) > 0 {
			t.Errorf("%s namespace: %v, %v", name, resp, err)
		}
	}
}

func TestMetricsOfTheShimCount(t *testing.T) {
	w := newWorld(t).bind()
	w.running("c1", 64*mib)
	shims := []*types.Metric{{ID: "c1", Data: anyOf(t, &v1.Metrics{})}, {ID: "ordinary"}}
	w.inner.metrics = func(*api.MetricsRequest) (*api.MetricsResponse, error) {
		return &api.MetricsResponse{Metrics: slices.Clone(shims)}, nil
	}
	got := w.metrics()
	if len(got) != 2 || got["c1"] != shims[0] || got["ordinary"] != shims[1] {
		t.Errorf("%v", got)
	}
	broken := status.Error(codes.Unavailable, "broken")
	w.inner.metrics = func(*api.MetricsRequest) (*api.MetricsResponse, error) { return nil, broken }
	if _, err := w.tasks.Metrics(w.ctx, &api.MetricsRequest{}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func TestMetricsEndWithTheTask(t *testing.T) {
	w := newWorld(t).bind()
	w.running("c1", 64*mib)
	for _, c := range []struct {
		err  error
		left int
	}{
		{status.Error(codes.FailedPrecondition, "still running"), 1},
		{nil, 0},
	} {
		w.inner.remove = func(*api.DeleteTaskRequest) (*api.DeleteResponse, error) { return nil, c.err }
		if _, err := w.tasks.Delete(w.ctx, &api.DeleteTaskRequest{ContainerID: "c1"}); !errors.Is(err, c.err) {
			t.Errorf("%v", err)
		}
		if got := w.metrics(); len(got) != c.left {
			t.Errorf("deleted with %v: %d metrics, want %d", c.err, len(got), c.left)
		}
	}
}

func TestMetricsBeforeBind(t *testing.T) {
	w := newWorld(t)
	w.inner.metrics = func(*api.MetricsRequest) (*api.MetricsResponse, error) {
		return &api.MetricsResponse{Metrics: []*types.Metric{{ID: "ordinary"}}}, nil
	}
	if got := w.metrics(); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

// A process that was gone before it could be looked at is no failure of its restore.
func TestProcessThatIsGone(t *testing.T) {
	w := newWorld(t)
	w.restored("c1", nil)
	w.bind()
	cmd := exec.Command("true")
	check(t, cmd.Run())
	for _, pid := range []int{cmd.Process.Pid, 0} {
		if _, err := cgroup.Load(pid); err == nil {
			t.Errorf("process %d has a cgroup", pid)
		}
	}
	w.inner.start = func(context.Context, *api.StartRequest) (*api.StartResponse, error) {
		return &api.StartResponse{Pid: uint32(cmd.Process.Pid)}, nil
	}
	_, err := w.tasks.Start(w.ctx, &api.StartRequest{ContainerID: "c1"})
	check(t, err)
	if got := w.metrics(); len(got) > 0 {
		t.Errorf("%v", got)
	}
}

// The kernel's word, not a fake's: the process takes more memory than it may.
func TestOOMIsReported(t *testing.T) {
	w := newWorld(t).bind()
	stdin := w.running("c1", 16*mib)
	w.running("c2", 16*mib)
	check(t, stdin.Close())
	select {
	case event := <-w.oom:
		if oom, ok := event.(*apievents.TaskOOM); !ok || oom.ContainerID != "c1" {
			t.Errorf("%T %v", event, event)
		}
	case <-time.After(time.Minute):
		t.Error("no event")
	}
}

// Between the end of a process and the deletion of its task there is no cgroup, which is nothing to complain about.
func TestStatsWithoutCgroup(t *testing.T) {
	var (
		name   = "/cri-restore-test-" + restore.NewID()
		cg     any
		remove func() error
	)
	if cgmode.Mode() == cgmode.Unified {
		m, err := cgroup2.NewManager("/sys/fs/cgroup", name, &cgroup2.Resources{})
		check(t, err)
		cg, remove = m, m.Delete
	} else {
		c, err := cgroup1.New(cgroup1.StaticPath(name), &specs.LinuxResources{})
		check(t, err)
		cg, remove = c, c.Delete
	}
	c := &cgroups{set: map[string]any{"c1": cg}}
	if _, err := c.stats("c1"); err != nil {
		t.Error(err)
	}
	check(t, remove())
	if _, err := c.stats("c1"); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}
