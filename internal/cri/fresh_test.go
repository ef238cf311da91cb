package cri

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// wantsFresh makes the pod want its container started whatever becomes of the checkpoint, on a node that hears it.
func (w *world) wantsFresh() {
	w.t.Helper()
	var err error
	w.node.Policy, err = policy.New(policy.Config{AllowArchives: true, Images: []string{"**"}, Namespaces: []string{"*"},
		PodAnnotations: []string{"on-failure"}})
	check(w.t, err)
	w.inner.sandboxes[sandbox].Annotations = map[string]string{"org.criu.restore/on-failure": "start-fresh"}
}

// misfit are the files of a checkpoint that fits no pod.
func (w *world) misfit() map[string]string {
	w.t.Helper()
	spec := specOfPod()
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	data, err := json.Marshal(spec)
	check(w.t, err)
	files := w.files()
	files["spec.dump"] = string(data)
	return files
}

// fresh checks that the last container is one from the base image, and returns why.
func (w *world) fresh(id string) string {
	w.t.Helper()
	last := w.inner.requests[len(w.inner.requests)-1].GetConfig()
	if last.GetImage().GetImage() != w.baseID || last.GetImage().GetUserSpecifiedImage() != checkpointName ||
		len(last.GetCommand())+len(last.GetArgs()) != 0 {
		w.t.Errorf("containerd got %v", last)
	}
	a := last.GetAnnotations()
	if a["a"] != "b" || a[restore.AnnotationImage] != checkpointName ||
		a[restore.AnnotationBase] != baseRepository+"@"+w.base || a[restore.AnnotationID] != "" {
		w.t.Errorf("annotations %v", a)
	}
	c, _, err := w.node.Restores.Get(w.ctx, id)
	if !errdefs.IsNotFound(err) || restore.Pending(c) {
		w.t.Errorf("the container has a record, or waits for one: %v", err)
	}
	return a[restore.AnnotationFresh]
}

func TestStartFresh(t *testing.T) {
	w := newWorld(t)
	id := w.checkpointImage(checkpointName, w.misfit())
	_, err := w.runtime.CreateContainer(w.ctx, w.request(id))
	wantError(t, err, errdefs.IsFailedPrecondition, "user namespace")

	w.wantsFresh()
	before := w.inventory()
	resp, err := w.runtime.CreateContainer(w.ctx, w.request(id))
	check(t, err)
	if why := w.fresh(resp.ContainerId); !strings.Contains(why, "user namespace") {
		t.Errorf("reason %q", why)
	}
	// Nothing of the restore is left, and the container is an ordinary one.
	w.unchanged(append(before, "container "+resp.ContainerId, "snapshot Active "+resp.ContainerId,
		"name "+sandbox+"/counter of "+resp.ContainerId))
	_, err = w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: resp.ContainerId})
	check(t, err)
	w.unchanged(before)
}

// A checkpoint that can be restored is, whatever the pod wants otherwise.
func TestFreshOnlyIfItMust(t *testing.T) {
	w := newWorld(t)
	id := w.checkpointImage(checkpointName, w.files())
	w.wantsFresh()
	// What another container's annotations say of it, which anybody can write, changes nothing.
	forged := w.request(w.baseID)
	record := restore.Record{ID: restore.NewID(), Image: checkpointName, ImageDigest: w.digestOf(checkpointName),
		ImageID: id}
	maps.Copy(forged.Config.Annotations, record.Annotations())
	forged.Config.Annotations[restore.AnnotationFresh] = "because"
	other, err := w.runtime.CreateContainer(w.ctx, forged)
	check(t, err)
	if c, _, err := w.node.Restores.Get(w.ctx, other.ContainerId); !errdefs.IsNotFound(err) || restore.Pending(c) {
		t.Errorf("an ordinary container with the annotations of a restored one: %v", err)
	}
	again := w.request(id)
	again.Config.Metadata.Attempt = 1
	resp, err := w.runtime.CreateContainer(w.ctx, again)
	check(t, err)
	w.ready(resp.ContainerId)
}

// The restart of a container whose restore failed, and all that follow, begin anew.
func TestFreshAfterAFailedStart(t *testing.T) {
	w := newWorld(t)
	id := w.checkpointImage(checkpointName, w.files())
	w.wantsFresh()
	first, err := w.runtime.CreateContainer(w.ctx, w.request(id))
	check(t, err)
	check(t, w.node.Restores.NoteFailure(w.ctx, first.ContainerId, errors.New("CRIU says: no")))
	again := w.request(id)
	again.Config.Metadata.Attempt = 1
	second, err := w.runtime.CreateContainer(w.ctx, again)
	check(t, err)
	if why := w.fresh(second.ContainerId); !strings.Contains(why, "CRIU says: no") {
		t.Errorf("reason %q", why)
	}
	_, err = w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: first.ContainerId})
	check(t, err)
	again.Config.Metadata.Attempt = 2
	third, err := w.runtime.CreateContainer(w.ctx, again)
	check(t, err)
	w.fresh(third.ContainerId)

	// Another container of the pod, another checkpoint, or a pod that does not ask, are not concerned.
	other := w.request(id)
	other.Config.Metadata.Name = "other"
	resp, err := w.runtime.CreateContainer(w.ctx, other)
	check(t, err)
	if _, _, err := w.node.Restores.Get(w.ctx, resp.ContainerId); err != nil {
		t.Error(err)
	}
	w.inner.sandboxes[sandbox].Annotations = nil
	again.Config.Metadata.Attempt = 3
	resp, err = w.runtime.CreateContainer(w.ctx, again)
	check(t, err)
	if _, _, err := w.node.Restores.Get(w.ctx, resp.ContainerId); err != nil {
		t.Error(err)
	}
}

// What the node's policy refuses, what another try may mend, and what has no base image, does not begin anew.
func TestNotFresh(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(w *world)
		is      func(error) bool
	}{
		"another namespace": {func(w *world) {
			w.inner.sandboxes[sandbox].Metadata.Namespace = "other"
			w.node.Policy, _ = policy.New(policy.Config{Images: []string{"**"}, Namespaces: []string{"default"},
				PodAnnotations: []string{"on-failure"}})
		}, errdefs.IsPermissionDenied},
		"another image": {func(w *world) {
			w.node.Policy, _ = policy.New(policy.Config{Images: []string{"registry.example/ok/**"}, Namespaces: []string{"*"},
				PodAnnotations: []string{"on-failure"}})
		}, errdefs.IsPermissionDenied},
		"not heard": {func(w *world) {
			w.node.Policy, _ = policy.New(policy.Config{Images: []string{"**"}, Namespaces: []string{"*"}})
		}, errdefs.IsPermissionDenied},
		"another base image": {func(w *world) {
			w.runtime.bases.Admit = func(string, ...string) error { return errdefs.ErrPermissionDenied }
		}, errdefs.IsPermissionDenied},
		"no base image": {func(w *world) {
			w.withoutBase()
			w.runtime.bases.NeverPull = true
		}, errdefs.IsFailedPrecondition},
		"a call that fails": {func(w *world) {
			_, made := calls(w.t, sources["image"])
			w.faults.arm(slices.Index(made, "create lease")+1, nil)
		}, func(err error) bool { return errors.Is(err, errInjected) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			id := w.checkpointImage(checkpointName, w.misfit())
			w.wantsFresh()
			before := w.inventory()
			c.prepare(w)
			_, err := w.runtime.CreateContainer(w.ctx, w.request(id))
			w.faults.disarm()
			wantError(t, err, c.is)
			w.unchanged(before)
		})
	}
}

func TestSettled(t *testing.T) {
	for err, want := range map[error]bool{
		errdefs.ErrFailedPrecondition: true, errdefs.ErrPermissionDenied: true, errdefs.ErrInvalidArgument: true,
		errdefs.ErrResourceExhausted: true,
		errdefs.ErrNotImplemented:    true, errdefs.ErrUnavailable: false, errdefs.ErrInternal: false, errInjected: false,
		errdefs.ErrNotFound: false, errdefs.ErrAborted: false,
	} {
		if settled(err) != want {
			t.Errorf("%v: %t", err, !want)
		}
	}
}
