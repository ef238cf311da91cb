package restore

import (
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func anyOf(t *testing.T, v any) *anypb.Any {
	t.Helper()
	a, err := typeurl.MarshalAnyToProto(v)
	check(t, err)
	return a
}

func TestTaskOptionsAreMerged(t *testing.T) {
	container := &options.Options{
		NoPivotRoot: true, BinaryName: "/usr/bin/runc", Root: "/run/runc", SystemdCgroup: true, ShimCgroup: "/shim",
		IoUid: 7, IoGid: 8,
	}
	request := &options.Options{BinaryName: "/opt/runc", SystemdCgroup: false, CriuImagePath: "/elsewhere",
		CriuWorkPath: "/elsewhere"}
	for name, c := range map[string]struct {
		request, container typeurl.Any
		want               *options.Options
	}{
		"the container's":        {nil, anyOf(t, container), container},
		"nil in an interface":    {(*anypb.Any)(nil), anyOf(t, container), container},
		"an empty request":       {&anypb.Any{}, anyOf(t, container), container},
		"the request's":          {anyOf(t, request), anyOf(t, container), request},
		"only the request's":     {anyOf(t, request), nil, request},
		"none":                   {nil, nil, &options.Options{}},
		"none, in an interface":  {(*anypb.Any)(nil), &anypb.Any{}, &options.Options{}},
		"a request of no option": {anyOf(t, &options.Options{}), anyOf(t, container), &options.Options{}},
	} {
		t.Run(name, func(t *testing.T) {
			var before []byte
			if c.container != nil {
				before = append(before, c.container.GetValue()...)
			}
			merged, err := TaskOptions(c.request, c.container, "/images", "/work", 1000)
			check(t, err)
			v, err := typeurl.UnmarshalAny(merged)
			check(t, err)
			want := proto.Clone(c.want).(*options.Options)
			want.CriuImagePath, want.CriuWorkPath, want.IoUid = "/images", "/work", 1000
			if !proto.Equal(v.(*options.Options), want) {
				t.Errorf("got %v, want %v", v, want)
			}
			if c.container != nil && string(before) != string(c.container.GetValue()) {
				t.Error("the container's options were changed")
			}
		})
	}
}

func TestOptionsOfAnotherRuntime(t *testing.T) {
	runc := anyOf(t, &options.Options{})
	for name, other := range map[string]typeurl.Any{
		"generic":    anyOf(t, &runtimeoptions.Options{TypeUrl: "x"}),
		"unknown":    raw("example.org/some.Options", nil),
		"checkpoint": anyOf(t, &options.CheckpointOptions{}),
	} {
		t.Run(name, func(t *testing.T) {
			for what, f := range map[string]func() (*anypb.Any, error){
				"in the request":   func() (*anypb.Any, error) { return TaskOptions(other, runc, "/i", "/w", 0) },
				"of the container": func() (*anypb.Any, error) { return TaskOptions(nil, other, "/i", "/w", 0) },
			} {
				got, err := f()
				wantError(t, err, errdefs.IsFailedPrecondition, other.GetTypeUrl(), "only runc's")
				if got != nil {
					t.Errorf("%s: got %v", what, got)
				}
			}
		})
	}
	_, err := TaskOptions(raw(runc.GetTypeUrl(), []byte("\xff garbage")), nil, "/i", "/w", 0)
	wantError(t, err, errdefs.IsInvalidArgument, "runtime options")
}
