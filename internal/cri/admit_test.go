package cri

import (
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/restore"
)

func policyOf(t *testing.T, namespaces ...string) *policy.Policy {
	t.Helper()
	p, err := policy.New(policy.Config{AllowArchives: true, Images: []string{"**"}, Namespaces: namespaces})
	check(t, err)
	return p
}

type anySource struct {
	source
	err error
}

func (s anySource) admit() error { return s.err }

func TestAdmit(t *testing.T) {
	s := &Runtime{node: &Node{Policy: policyOf(t, "default")}}
	of := func(container, pod map[string]string) *runtime.CreateContainerRequest {
		return &runtime.CreateContainerRequest{
			Config: &runtime.ContainerConfig{Annotations: container}, SandboxConfig: &runtime.PodSandboxConfig{Annotations: pod},
		}
	}
	for name, c := range map[string]struct {
		request   *runtime.CreateContainerRequest
		namespace string
		source    error
		is        func(error) bool // nil: admitted
		says      string
	}{
		"plain":            {of(nil, nil), "default", nil, nil, ""},
		"no configuration": {&runtime.CreateContainerRequest{}, "default", nil, nil, ""},
		"other annotations": {of(map[string]string{"a": "b", "org.criu.restored/x": "y", "org.criu.configs": "z"},
			map[string]string{"a": "b"}), "default", nil, nil, ""},
		"another namespace": {of(nil, nil), "other", nil, errdefs.IsPermissionDenied, `"other"`},
		"no namespace":      {of(nil, nil), "", nil, nil, ""},
		"the source is not allowed": {of(nil, nil), "default", errInjected,
			func(err error) bool { return errors.Is(err, errInjected) }, ""},
		"the ID": {of(map[string]string{restore.AnnotationID: "x"}, nil), "default", nil,
			errdefs.IsInvalidArgument, restore.AnnotationID},
		"a made-up one": {of(map[string]string{restore.AnnotationPrefix + "later": ""}, nil), "default", nil,
			errdefs.IsInvalidArgument, "later"},
		"CRIU's configuration": {of(map[string]string{"org.criu.config": "/etc/passwd"}, nil), "default", nil,
			errdefs.IsInvalidArgument, "org.criu.config"},
		"CRIU's configuration, none": {of(map[string]string{"org.criu.config": ""}, nil), "default", nil,
			errdefs.IsInvalidArgument, "org.criu.config"},
		"by way of the pod": {of(nil, map[string]string{"org.criu.config": "/x"}), "default", nil,
			errdefs.IsInvalidArgument, "org.criu.config"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.admit(c.request, &pod{namespace: c.namespace}, anySource{err: c.source})
			if c.is == nil {
				check(t, err)
				return
			}
			wantError(t, err, c.is, c.says)
		})
	}
}

func TestPod(t *testing.T) {
	w := newWorld(t)
	w.inner.sandboxes["kata"] = &runtime.PodSandboxStatus{Id: "kata",
		Metadata: &runtime.PodSandboxMetadata{Namespace: "default"}, RuntimeHandler: "kata"}
	w.sandboxContainer("kata", "io.containerd.kata.v2")
	w.inner.sandboxes["own"] = &runtime.PodSandboxStatus{Id: "own", RuntimeHandler: ""}
	got, err := w.runtime.pod(w.ctx, sandbox)
	check(t, err)
	if want := (pod{id: sandbox, namespace: "default", snapshotter: snapshotter}); !reflect.DeepEqual(*got, want) {
		t.Errorf("%+v", got)
	}
	for _, c := range []struct {
		id   string
		is   func(error) bool
		says []string
	}{
		{"absent", errdefs.IsNotFound, []string{"absent"}},
		{"kata", errdefs.IsFailedPrecondition, []string{`"kata"`, "io.containerd.kata.v2", restore.RuntimeRunc}},
		{"own", errdefs.IsFailedPrecondition, []string{`"default"`, "sandbox controller"}},
	} {
		_, err := w.runtime.pod(w.ctx, c.id)
		wantError(t, err, c.is, c.says...)
	}
}

func TestPolicyOfImagesAndArchives(t *testing.T) {
	w := newWorld(t)
	id, archive := w.checkpointImage(checkpointName, w.files()), w.archive(w.files())
	closed, err := policy.New(policy.Config{Images: []string{"registry.example/other/**", "docker.io/library/**"},
		Namespaces: []string{"*"}})
	check(t, err)
	before := w.inventory()
	for name, c := range map[string]struct{ ref, user, key string }{
		"by ID":          {id, "", "allowed_images"},
		"by name":        {checkpointName, "", "allowed_images"},
		"with a lie":     {id, "registry.example/other/x:1", "allowed_images"},
		"archive":        {archive, "", "allow_archives"},
		"absent archive": {"/no/such/archive", "", "allow_archives"},
	} {
		t.Run(name, func(t *testing.T) {
			w.node.Policy = closed
			r := w.request(c.ref)
			r.Config.Image.UserSpecifiedImage = c.user
			_, err := w.runtime.CreateContainer(w.ctx, r)
			wantError(t, err, errdefs.IsPermissionDenied, c.key)
			w.unchanged(before)
			if len(w.inner.requests) > 0 {
				t.Error("containerd was asked")
			}
		})
	}
	w.node.Policy = policyOf(t, "*")
	for ref, says := range map[string]string{"/no/such/archive": "/no/such/archive", "/a/../b": "/b", "/": ""} {
		_, err := w.runtime.CreateContainer(w.ctx, w.request(ref))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", ref, err)
		}
		w.unchanged(before)
	}
	dir := t.TempDir()
	check(t, os.Symlink(archive, dir+"/link"))
	_, err = w.runtime.CreateContainer(w.ctx, w.request(dir+"/link"))
	wantError(t, err, errdefs.IsInvalidArgument, "link")
	w.unchanged(before)
}

func TestSourceNames(t *testing.T) {
	w := newWorld(t)
	id := w.checkpointImage(checkpointName, w.files())
	for _, c := range []struct{ ref, user, want string }{
		{id, "user/said:1", "user/said:1"}, {id, "", checkpointName}, {checkpointName, "", checkpointName},
	} {
		r := w.request(c.ref)
		r.Config.Image.UserSpecifiedImage = c.user
		resp, err := w.runtime.CreateContainer(w.ctx, r)
		check(t, err)
		if got := w.ready(resp.ContainerId).Image; got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
		_, err = w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: resp.ContainerId})
		check(t, err)
		check(t, os.RemoveAll(w.dir+"/logs"))
	}
}

func TestUndoList(t *testing.T) {
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
	cancel()
	var (
		u    undoList
		done []string
	)
	for _, what := range []string{"a", "b", "c"} {
		u.add(what, func(ctx context.Context) error {
			done = append(done, what)
			if ctx.Err() != nil || ctx.Value(key{}) != "kept" {
				t.Errorf("%s: context %v", what, ctx.Err())
			}
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > cleanupTimeout {
				t.Errorf("%s: no bound", what)
			}
			if what == "b" {
				return errInjected
			}
			return nil
		})
	}
	u.run(ctx)
	if got := strings.Join(done, ""); got != "cba" {
		t.Errorf("undone in the order %q", got)
	}
	undoList(nil).run(ctx)
}

type key struct{}

// What a pod asks for is read from the sandbox, which the kubelet made with the pod's own annotations.
func TestAdmitPodAnnotations(t *testing.T) {
	p, err := policy.New(policy.Config{Images: []string{"**"}, Namespaces: []string{"*"},
		PodAnnotations: []string{"tcp-connections"}})
	check(t, err)
	s := &Runtime{node: &Node{Policy: p}}
	r := &runtime.CreateContainerRequest{SandboxConfig: &runtime.PodSandboxConfig{
		Annotations: map[string]string{"org.criu.restore/tcp-connections": "restore"}}}
	got, err := s.admit(r, &pod{annotations: map[string]string{"org.criu.restore/tcp-connections": "close"}}, anySource{})
	check(t, err)
	if got.TCP != policy.CloseTCP {
		t.Errorf("%+v", got)
	}
	_, err = s.admit(r, &pod{annotations: map[string]string{"org.criu.restore/wish": "x"}}, anySource{})
	wantError(t, err, errdefs.IsInvalidArgument, "wish")
}
