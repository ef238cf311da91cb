package origin

import (
	"context"
	"maps"
	"testing"

	api "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// service keeps what it is asked to create.
type service struct {
	api.ContainersClient
	created *api.CreateContainerRequest
}

func (s *service) Create(_ context.Context, r *api.CreateContainerRequest,
	_ ...grpc.CallOption) (*api.CreateContainerResponse, error) {
	s.created = r
	return &api.CreateContainerResponse{Container: r.Container}, nil
}

// container is what the store has of what was created.
func (s *service) container() *containers.Container {
	c := &containers.Container{ID: s.created.Container.ID, Labels: s.created.Container.Labels,
		Extensions: map[string]typeurl.Any{}}
	for key, value := range s.created.Container.Extensions {
		c.Extensions[key] = value
	}
	return c
}

func request() *api.CreateContainerRequest {
	return &api.CreateContainerRequest{Container: &api.Container{
		ID: "c1", Labels: map[string]string{"app": "x"},
		Extensions: map[string]*anypb.Any{"other": {TypeUrl: "x", Value: []byte("{}")}},
	}}
}

func TestCreateNotes(t *testing.T) {
	want := &Origin{ID: "1", Image: "checkpoint:1", ImageDigest: "sha256:a", ImageID: "sha256:b"}
	inner := &service{}
	given := request()
	if _, err := (&Containers{inner}).Create(With(t.Context(), want), given); err != nil {
		t.Fatal(err)
	}
	c := inner.container()
	if got := Of(c); got == nil || *got != *want {
		t.Errorf("got %+v", got)
	}
	if !maps.Equal(c.Labels, map[string]string{"app": "x", Label: "1"}) || len(c.Extensions) != 2 {
		t.Errorf("%v, %v", c.Labels, c.Extensions)
	}
	if !proto.Equal(given, request()) {
		t.Errorf("the caller's request became %v", given)
	}
	if _, err := (&Containers{inner}).Create(With(t.Context(), want),
		&api.CreateContainerRequest{Container: &api.Container{}}); err != nil || Of(inner.container()) == nil {
		t.Errorf("without labels and extensions: %v", err)
	}
}

// Every other request is passed on as it is.
func TestCreateWithout(t *testing.T) {
	inner := &service{}
	for _, ctx := range []context.Context{t.Context(), With(t.Context(), nil)} {
		r := request()
		if _, err := (&Containers{inner}).Create(ctx, r); err != nil || inner.created != r || Of(inner.container()) != nil {
			t.Errorf("%v, %v", err, inner.created)
		}
	}
}

// What anybody can write says nothing, and what cannot be read makes no ordinary container.
func TestOf(t *testing.T) {
	for name, c := range map[string]struct {
		container containers.Container
		want      *Origin
	}{
		"nothing":   {containers.Container{}, nil},
		"its label": {containers.Container{Labels: map[string]string{Label: "1", extension: `{"id":"1"}`}}, nil},
		"unreadable": {containers.Container{Extensions: map[string]typeurl.Any{extension: &anypb.Any{Value: []byte("{")}}},
			&Origin{}},
		"later": {containers.Container{Extensions: map[string]typeurl.Any{extension: &anypb.Any{Value: []byte(`{"id":"1","new":true,"fresh":"why"}`)}}},
			&Origin{ID: "1", Fresh: "why"}},
	} {
		got := Of(&c.container)
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
