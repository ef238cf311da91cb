package task

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func anyOf(t *testing.T, v any) *anypb.Any {
	t.Helper()
	a, err := typeurl.MarshalAnyToProto(v)
	check(t, err)
	return a
}

// request has every field set but the checkpoint.
func request(id string, options *anypb.Any) *api.CreateTaskRequest {
	return &api.CreateTaskRequest{
		ContainerID: id, Rootfs: []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{"a=b"}}},
		Stdin: "in", Stdout: "out", Stderr: "err", Terminal: true, Options: options, RuntimePath: "/shim",
	}
}

// capture answers a Create and keeps its request.
func (w *world) capture() **api.CreateTaskRequest {
	got := new(*api.CreateTaskRequest)
	w.inner.create = func(r *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
		*got = r
		return &api.CreateTaskResponse{ContainerID: r.ContainerID, Pid: 7}, nil
	}
	return got
}

func TestCreateOfOrdinaryContainersIsUntouched(t *testing.T) {
	for name, bound := range map[string]bool{"bound": true, "not bound": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.container("c1", nil)
			if bound {
				w.bind()
			}
			got := w.capture()
			for _, id := range []string{"c1", "unknown"} {
				for _, o := range []*anypb.Any{nil, anyOf(t, &options.Options{BinaryName: "b"})} {
					r := request(id, o)
					r.Checkpoint = &types.Descriptor{Digest: "sha256:x"}
					before := proto.Clone(r)
					resp, err := w.tasks.Create(w.ctx, r)
					check(t, err)
					if *got != r || !proto.Equal(r, before) || resp.Pid != 7 {
						t.Errorf("%s: the request became %v", id, *got)
					}
				}
			}
		})
	}
}

// Before Bind nothing is known of restores, so none can be begun by mistake either:
// the CRI plugin serves nothing then.
func TestCreateBeforeBind(t *testing.T) {
	w := newWorld(t)
	w.restored("c1", nil)
	got, r := w.capture(), request("c1", nil)
	_, err := w.tasks.Create(w.ctx, r)
	check(t, err)
	if *got != r {
		t.Errorf("the request became %v", *got)
	}
}

func TestCreateOfARestore(t *testing.T) {
	ofContainer := &options.Options{BinaryName: "/usr/bin/runc", SystemdCgroup: true, Root: "/run/runc"}
	for name, c := range map[string]struct{ request, want *options.Options }{
		"the container's options": {nil, ofContainer},
		"the request's options":   {&options.Options{BinaryName: "/opt/runc"}, &options.Options{BinaryName: "/opt/runc"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			rec := w.restored("c1", anyOf(t, ofContainer))
			w.bind()
			got := w.capture()
			r := request("c1", nil)
			if c.request != nil {
				r.Options = anyOf(t, c.request)
			}
			before := proto.Clone(r)
			resp, err := w.tasks.Create(w.ctx, r)
			check(t, err)
			if resp.Pid != 7 || !proto.Equal(r, before) {
				t.Errorf("the caller's request became %v", r)
			}
			want := proto.Clone(c.want).(*options.Options)
			want.CriuImagePath = filepath.Join(w.store.Dirs.Archive(rec.ID), "checkpoint")
			want.CriuWorkPath = w.store.Dirs.Work(rec.ID)
			var o options.Options
			check(t, typeurl.UnmarshalTo((*got).Options, &o))
			if !proto.Equal(&o, want) {
				t.Errorf("options %v, want %v", &o, want)
			}
			// The options are all that differs.
			(*got).Options = r.Options
			if !proto.Equal(*got, r) {
				t.Errorf("got %v, want %v", *got, r)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		arrange func(w *world, r *api.CreateTaskRequest)
		code    codes.Code
		says    string
	}{
		"tried already": {func(w *world, _ *api.CreateTaskRequest) {
			w.restored("c1", nil)
			check(w.t, w.store.End(w.ctx, "c1"))
		}, codes.FailedPrecondition, "create it again"},
		"not finished": {func(w *world, _ *api.CreateTaskRequest) {
			w.container("c1", nil)
			w.extension("c1", "org.criu.restore/origin", `{"id":"x"}`)
		}, codes.FailedPrecondition, "create it again"},
		"newer record": {func(w *world, _ *api.CreateTaskRequest) {
			w.restored("c1", nil)
			w.extension("c1", "org.criu.restore/record", `{"version":99}`)
		}, codes.FailedPrecondition, "version 99"},
		"another checkpoint": {func(w *world, r *api.CreateTaskRequest) {
			w.restored("c1", nil)
			r.Checkpoint = &types.Descriptor{Digest: "sha256:x"}
		}, codes.InvalidArgument, "/archives/c1.tar"},
		"no checkpoint any more": {func(w *world, _ *api.CreateTaskRequest) {
			check(w.t, w.store.Dirs.Remove(w.restored("c1", nil).ID))
		}, codes.NotFound, "/archives/c1.tar"},
		"not runc": {func(w *world, _ *api.CreateTaskRequest) {
			w.restored("c1", anyOf(w.t, &runtimeoptions.Options{}))
		}, codes.FailedPrecondition, "only runc's"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).bind()
			w.capture()
			r := request("c1", nil)
			c.arrange(w, r)
			_, err := w.tasks.Create(w.ctx, r)
			wantStatus(t, err, c.code, "c1", c.says)
			if w.inner.made("create c1") {
				t.Error("the task was created all the same")
			}
		})
	}
	t.Run("no namespace", func(t *testing.T) {
		w := newWorld(t).bind()
		w.capture()
		_, err := w.tasks.Create(context.Background(), request("c1", nil))
		wantStatus(t, err, codes.FailedPrecondition)
	})
}

// To the CRI plugin a container whose task could not be created has exited: what
// the restore needed is given back, unless another task is there, whose it may be.
func TestCreateThatFails(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		ended bool
	}{
		"the shim fails":  {status.Error(codes.Unknown, "no shim"), true},
		"there is a task": {status.Error(codes.AlreadyExists, "task c1"), false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			rec := w.restored("c1", nil)
			w.bind()
			w.inner.create = func(*api.CreateTaskRequest) (*api.CreateTaskResponse, error) { return nil, c.err }
			_, err := w.tasks.Create(w.ctx, request("c1", nil))
			wantStatus(t, err, status.Code(c.err))
			if got := w.record("c1").Ended; got != c.ended {
				t.Errorf("ended: %t", got)
			}
			if got := exists(t, w.store.Dirs.Archive(rec.ID)); got == c.ended {
				t.Errorf("the unpacked archive is there: %t", got)
			}
		})
	}
}

// Another namespace has its own containers.
func TestCreateInAnotherNamespace(t *testing.T) {
	w := newWorld(t)
	w.restored("c1", nil)
	w.bind()
	got, r := w.capture(), request("c1", nil)
	_, err := w.tasks.Create(namespaces.WithNamespace(t.Context(), "moby"), r)
	check(t, err)
	if *got != r {
		t.Errorf("the request became %v", *got)
	}
}

func wantStatus(t *testing.T, err error, code codes.Code, says ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("got %v, want code %s", err, code)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error does not say %q: %v", s, err)
		}
	}
}
