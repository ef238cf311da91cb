package hook

import (
	"context"
	"errors"
	"testing"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/plugin"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The registrations are those of the containerd in go.mod: an update that
// renames or drops one fails here.
func TestContainerdRegistrations(t *testing.T) {
	for _, p := range []struct {
		t  plugin.Type
		id string
	}{{plugins.GRPCPlugin, "cri"}, {plugins.ServicePlugin, "tasks-service"}} {
		if find(p.t, p.id) == nil {
			t.Errorf("containerd registers no plugin %s.%s", p.t, p.id)
		}
	}
	if err := Wrap(plugins.GRPCPlugin, "absent", nil); !errdefs.IsNotFound(err) {
		t.Errorf("wrapping an absent plugin: %v, want not found", err)
	}
}

type runtimeService struct {
	runtime.UnimplementedRuntimeServiceServer
}
type imageService struct {
	runtime.UnimplementedImageServiceServer
}

// server and serverWithTCP have the two shapes of containerd's CRI plugin
// (plugins/cri/cri.go), unexported as there.
type server struct {
	runtime.RuntimeServiceServer
	runtime.ImageServiceServer
}
type serverWithTCP struct{ *server }

func TestServicesAreReplacedInBothShapes(t *testing.T) {
	for name, shape := range map[string]func(*server) any{
		"without TCP": func(s *server) any { return s },
		"with TCP":    func(s *server) any { return serverWithTCP{s} },
	} {
		t.Run(name, func(t *testing.T) {
			inner := &server{&runtimeService{}, &imageService{}}
			outerRuntime, outerImages := &runtimeService{}, &imageService{}
			instance, err := replace(shape(inner), func(got CRIServices) (CRIServices, error) {
				if got.Runtime != inner.RuntimeServiceServer || got.Images != inner.ImageServiceServer {
					t.Error("the decorator did not get the inner services")
				}
				return CRIServices{outerRuntime, outerImages}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if inner.RuntimeServiceServer != outerRuntime || inner.ImageServiceServer != outerImages {
				t.Error("the instance does not serve the decorators")
			}
			if instance == nil {
				t.Error("the instance is gone")
			}
		})
	}
}

func TestUnknownShapesFailLoudly(t *testing.T) {
	for name, instance := range map[string]any{
		"nil":            nil,
		"no struct":      42,
		"no field":       &struct{ runtime.RuntimeServiceServer }{&runtimeService{}},
		"other type":     &struct{ RuntimeServiceServer, ImageServiceServer int }{},
		"nil field":      &server{},
		"not settable":   server{&runtimeService{}, &imageService{}},
		"nil inner with": serverWithTCP{},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := replace(instance, func(s CRIServices) (CRIServices, error) { return s, nil })
			if !errdefs.IsNotImplemented(err) {
				t.Errorf("got %v, want not implemented", err)
			}
		})
	}
}

func TestWrapKeepsTheInnerError(t *testing.T) {
	r := find(plugins.ServicePlugin, "tasks-service")
	saved := r.InitFn
	t.Cleanup(func() { r.InitFn = saved })
	broken := errors.New("broken")
	r.InitFn = func(*plugin.InitContext) (any, error) { return nil, broken }
	if err := Tasks(func(*plugin.InitContext, api.TasksClient) (api.TasksClient, error) {
		t.Error("decorated a service that failed")
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.InitFn(plugin.NewContext(context.Background(), plugin.NewPluginSet(), nil)); !errors.Is(err, broken) {
		t.Errorf("got %v, want the inner error", err)
	}
}
