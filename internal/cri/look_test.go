package cri

import (
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// An ordinary image that looks like a checkpoint is created as without the plugin, under every policy, with every
// annotation, for every runtime; a checkpoint under the same conditions is refused.
func TestContentComesBeforePolicy(t *testing.T) {
	for name, c := range map[string]struct {
		config  policy.Config
		arrange func(w *world)
		request func(r *runtime.CreateContainerRequest)
		is      func(error) bool
	}{
		"allowed_images": {policy.Config{Images: []string{"registry.example/other/**"}, Namespaces: []string{"*"}}, nil,
			nil, errdefs.IsPermissionDenied},
		"allowed_namespaces": {policy.Config{Images: []string{"**"}, Namespaces: []string{"other"}}, nil, nil,
			errdefs.IsPermissionDenied},
		"annotation of the plugin": {policy.Config{Images: []string{"**"}, Namespaces: []string{"*"}}, nil,
			func(r *runtime.CreateContainerRequest) {
				r.Config.Annotations[restore.AnnotationPrefix+"note"] = "x"
			}, errdefs.IsInvalidArgument},
		"annotation for CRIU": {policy.Config{Images: []string{"**"}, Namespaces: []string{"*"}}, nil,
			func(r *runtime.CreateContainerRequest) {
				r.Config.Annotations[restore.AnnotationCRIUConfig] = "/x"
			}, errdefs.IsInvalidArgument},
		"pod annotation": {policy.Config{Images: []string{"**"}, Namespaces: []string{"*"}}, func(w *world) {
			w.inner.sandboxes[sandbox].Annotations = map[string]string{restore.AnnotationPrefix + "lazy-pages": "on"}
		}, nil, errdefs.IsPermissionDenied},
		"another runtime": {policy.Config{Images: []string{"**"}, Namespaces: []string{"*"}}, func(w *world) {
			w.inner.sandboxes["kata"] = &runtime.PodSandboxStatus{Id: "kata",
				Metadata: &runtime.PodSandboxMetadata{Namespace: "default"}, RuntimeHandler: "kata"}
			w.sandboxContainer("kata", "io.containerd.kata.v2")
		}, func(r *runtime.CreateContainerRequest) { r.PodSandboxId = "kata" }, errdefs.IsFailedPrecondition},
		"unknown pod": {policy.Config{Images: []string{"**"}, Namespaces: []string{"*"}}, nil,
			func(r *runtime.CreateContainerRequest) { r.PodSandboxId = "none" }, errdefs.IsNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var err error
			w.node.Policy, err = policy.New(c.config)
			check(t, err)
			if c.arrange != nil {
				c.arrange(w)
			}
			r := w.request(w.hollowImage("registry.example/hollow:1"))
			if c.request != nil {
				c.request(r)
			}
			_, err = w.runtime.CreateContainer(w.ctx, r)
			check(t, err)
			if got := w.inner.requests[len(w.inner.requests)-1]; !proto.Equal(got, r) {
				t.Errorf("containerd got %v, want %v", got, r)
			}
			r = w.request(w.checkpointImage(checkpointName, w.files()))
			if c.request != nil {
				c.request(r)
			}
			before := w.inventory()
			_, err = w.runtime.CreateContainer(w.ctx, r)
			wantError(t, err, c.is)
			w.unchanged(before)
		})
	}
}

// An image with the annotations is looked into once, and one without never.
func TestLooksOnce(t *testing.T) {
	w := newWorld(t)
	for ref, looks := range map[string]int{w.hollowImage("registry.example/hollow:1"): 1, w.baseID: 0} {
		w.faults.arm(0, nil)
		before := w.inventory()
		for i := range 3 {
			r := w.request(ref)
			r.Config.Metadata.Name = ref
			r.Config.Metadata.Attempt = uint32(i)
			resp, err := w.runtime.CreateContainer(w.ctx, r)
			check(t, err)
			_, err = w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: resp.ContainerId})
			check(t, err)
		}
		made := w.faults.disarm()
		w.unchanged(before)
		if n := len(slices.DeleteFunc(made, func(call string) bool { return call != "create lease" })); n != looks {
			t.Errorf("%s: looked %d times, want %d", ref, n, looks)
		}
	}
}
