package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/restore"
)

// restored creates a container from a checkpoint.
func (w *world) restored(imageID, name, pod string) (id string, record *restore.Record) {
	w.t.Helper()
	r := w.request(imageID)
	r.PodSandboxId, r.Config.Metadata.Name, r.Config.LogPath = pod, name, ""
	resp, err := w.runtime.CreateContainer(w.ctx, r)
	check(w.t, err)
	_, record, err = w.node.Restores.Get(w.ctx, resp.ContainerId)
	check(w.t, err)
	return resp.ContainerId, record
}

func TestRemoveContainer(t *testing.T) {
	w := newWorld(t)
	image := w.checkpointImage(checkpointName, w.files())
	before := w.inventory()
	for name, arrange := range map[string]func(id string, r *restore.Record){
		"never started": func(string, *restore.Record) {},
		"restored":      func(id string, _ *restore.Record) { check(t, w.node.Restores.End(w.ctx, id)) },
		"killed half way": func(_ string, r *restore.Record) {
			precious := t.TempDir()
			check(t, os.WriteFile(filepath.Join(precious, "file"), nil, 0o600))
			target := filepath.Join(w.node.Restores.Dirs.Work(r.ID), "cgroups")
			check(t, os.Mkdir(target, 0o700))
			check(t, unix.Mount(precious, target, "", unix.MS_BIND, ""))
			t.Cleanup(func() {
				if _, err := os.Stat(filepath.Join(precious, "file")); err != nil {
					t.Error(err)
				}
			})
		},
		"directories gone": func(_ string, r *restore.Record) { check(t, w.node.Restores.Dirs.Remove(r.ID)) },
	} {
		t.Run(name, func(t *testing.T) {
			id, record := w.restored(image, "counter", sandbox)
			arrange(id, record)
			_, err := w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: id})
			check(t, err)
			w.unchanged(before)
		})
	}
	// Neither is there anything to remove here.
	for _, id := range []string{"absent", ""} {
		_, err := w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: id})
		check(t, err)
	}
}

// What containerd could not remove keeps what it needs.
func TestRemoveContainerThatFails(t *testing.T) {
	w := newWorld(t)
	id, _ := w.restored(w.checkpointImage(checkpointName, w.files()), "counter", sandbox)
	before := w.inventory()
	w.faults.arm(slices.Index([]string{"get container", "RemoveContainer"}, "RemoveContainer")+1, nil)
	_, err := w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: id})
	if made := w.faults.disarm(); !errors.Is(err, errInjected) ||
		!slices.Equal(made, []string{"get container", "RemoveContainer"}) {
		t.Errorf("%v, %q", err, made)
	}
	w.unchanged(before)
}

// A caller that is gone once containerd has removed the container does not keep the rest.
func TestRemoveContainerGoesOn(t *testing.T) {
	w := newWorld(t)
	image := w.checkpointImage(checkpointName, w.files())
	before := w.inventory()
	id, _ := w.restored(image, "counter", sandbox)
	ctx, cancel := context.WithCancel(w.ctx)
	w.runtime.RuntimeServiceServer = cancelling{w.inner, cancel}
	_, err := w.runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: id})
	check(t, err)
	w.unchanged(before)
}

type cancelling struct {
	*fakeRuntime
	cancel func()
}

func (s cancelling) RemoveContainer(ctx context.Context,
	r *runtime.RemoveContainerRequest) (*runtime.RemoveContainerResponse, error) {
	resp, err := s.fakeRuntime.RemoveContainer(ctx, r)
	s.cancel()
	return resp, err
}

func TestRemovePodSandbox(t *testing.T) {
	w := newWorld(t)
	w.sandboxContainer("0ther", restore.RuntimeRunc)
	w.inner.sandboxes["0ther"] = &runtime.PodSandboxStatus{Id: "0ther",
		Metadata: &runtime.PodSandboxMetadata{Namespace: "default"}}
	image := w.checkpointImage(checkpointName, w.files())
	before := w.inventory()
	_, err := w.runtime.CreateContainer(w.ctx, func() *runtime.CreateContainerRequest {
		r := w.request(w.baseID)
		r.Config.Metadata.Name = "ordinary"
		return r
	}())
	check(t, err)
	w.restored(image, "other", "0ther")
	_, kept := w.restored(image, "kept", sandbox)
	_, gone := w.restored(image, "gone", sandbox)
	for id, name := range w.inner.names {
		w.inner.keep[id] = name == sandbox+"/kept"
	}
	_, err = w.runtime.RemovePodSandbox(w.ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: sandbox})
	if !errdefs.IsUnavailable(err) {
		t.Errorf("%v", err)
	}
	dirs := w.node.Restores.Dirs
	for id, want := range map[string]bool{kept.ID: true, gone.ID: false} {
		if _, err := os.Stat(dirs.View(id)); (err == nil) != want {
			t.Errorf("%s: %v", id, err)
		}
	}
	clear(w.inner.keep)
	_, err = w.runtime.RemovePodSandbox(w.ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: sandbox})
	check(t, err)
	if _, err := os.Stat(dirs.View(kept.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if len(w.inner.names) != 1 {
		t.Errorf("containers %v", w.inner.names)
	}
	_, err = w.runtime.RemovePodSandbox(w.ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: "0ther"})
	check(t, err)
	w.unchanged(before)
}

// Without the list of its containers the pod stays: their restores could not be found again before the next start.
func TestRemovePodSandboxThatCannotBeListed(t *testing.T) {
	w := newWorld(t)
	w.restored(w.checkpointImage(checkpointName, w.files()), "counter", sandbox)
	before := w.inventory()
	w.faults.arm(1, nil)
	_, err := w.runtime.RemovePodSandbox(w.ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: sandbox})
	if made := w.faults.disarm(); !errors.Is(err, errInjected) || !slices.Equal(made, []string{"ListContainers"}) {
		t.Errorf("%v, %q", err, made)
	}
	w.unchanged(before)
}

// setExtension changes what is recorded on a container.
func (w *world) setExtension(id, key, value string) {
	w.t.Helper()
	c, err := w.inner.containers.Get(w.ctx, id)
	check(w.t, err)
	if value == "" {
		delete(c.Extensions, key)
	} else {
		c.Extensions[key] = jsonAny("x", []byte(value))
	}
	_, err = w.inner.containers.Update(w.ctx, containers.Container{ID: id, Extensions: c.Extensions}, "extensions")
	check(w.t, err)
}

func TestRefusing(t *testing.T) {
	w := newWorld(t)
	const extension = "org.criu.restore/record"
	checkpoint, archive := w.checkpointImage(checkpointName, w.files()), w.archive(w.files())
	pending, _ := w.restored(checkpoint, "pending", sandbox)
	ended, _ := w.restored(checkpoint, "ended", sandbox)
	check(t, w.node.Restores.End(w.ctx, ended))
	newer, _ := w.restored(checkpoint, "newer", sandbox)
	w.setExtension(newer, extension, `{"version":99}`)
	unfinished, _ := w.restored(checkpoint, "unfinished", sandbox)
	w.setExtension(unfinished, extension, "")

	reason := fmt.Errorf("no criu in PATH: install CRIU: %w", errdefs.ErrNotFound)
	inner := &starting{fakeRuntime: w.inner}
	hollow := w.hollowImage("registry.example/hollow:1")
	s := Refuse(w.node.Client, w.node.Snapshotters, inner, w.images, reason)
	for ref, refused := range map[string]bool{
		checkpoint: true, checkpointName: true, archive: true, "/any/path": true, w.baseID: false, hollow: false,
		"registry.example/hollow:1": false, "registry.example/absent:1": false, "": false,
	} {
		r := w.request(ref)
		r.Config.Metadata.Name = "of " + ref
		before := w.inventory()
		_, err := s.CreateContainer(w.ctx, r)
		if !refused {
			check(t, err)
			continue
		}
		wantError(t, err, errdefs.IsFailedPrecondition, ref, "no criu in PATH")
		if errdefs.IsNotFound(err) {
			t.Errorf("the kubelet would take it for an absent image: %v", err)
		}
		w.unchanged(before)
	}
	for id, refused := range map[string]bool{pending: true, pending[:60]: true, newer: true, unfinished: true,
		ended: false, "absent": false} {
		inner.started = nil
		_, err := s.StartContainer(w.ctx, &runtime.StartContainerRequest{ContainerId: id})
		if started := slices.Contains(inner.started, id); started == refused {
			t.Errorf("%s: started: %t", id, started)
		}
		if refused {
			wantError(t, err, errdefs.IsFailedPrecondition, id, "no criu in PATH")
		} else {
			check(t, err)
		}
	}
}

type starting struct {
	*fakeRuntime
	started []string
}

func (s *starting) StartContainer(_ context.Context,
	r *runtime.StartContainerRequest) (*runtime.StartContainerResponse, error) {
	s.started = append(s.started, r.GetContainerId())
	return &runtime.StartContainerResponse{}, nil
}

// A container goes, whatever its record does to us, and what its restore has left goes when containerd starts again.
func TestRemoveContainerSurvivesAPanic(t *testing.T) {
	w := newWorld(t)
	image := w.checkpointImage(checkpointName, w.files())
	before := w.inventory()
	id, _ := w.restored(image, "counter", sandbox)
	w.faults.arm(1, func(string) error { panic("a mistake") }) // the get of the container
	_, err := w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: id})
	check(t, err)
	if made := w.faults.disarm(); len(made) == 0 || made[0] != "get container" {
		t.Errorf("calls %q", made)
	}
	check(t, w.node.Restores.Reconcile(w.ctx, func(context.Context, string) (bool, error) { return false, nil }))
	w.node.Restores.Wait()
	w.unchanged(before)
}

type exited struct{ *fakeRuntime }

func (exited) ContainerStatus(_ context.Context, r *runtime.ContainerStatusRequest) (*runtime.ContainerStatusResponse,
	error) {
	return &runtime.ContainerStatusResponse{Status: &runtime.ContainerStatus{
		Id: r.GetContainerId(), State: runtime.ContainerState_CONTAINER_EXITED, ExitCode: 137,
	}}, nil
}

// The kubelet sees a container's status, whatever its record does to us.
func TestContainerStatusSurvivesAPanic(t *testing.T) {
	w := newWorld(t)
	w.runtime.RuntimeServiceServer = exited{w.inner}
	w.node.users.add("c1") // one that was restored
	w.faults.arm(1, func(string) error { panic("a mistake") })
	resp, err := w.runtime.ContainerStatus(w.ctx, &runtime.ContainerStatusRequest{ContainerId: "c1"})
	check(t, err)
	if made := w.faults.disarm(); len(made) != 1 || resp.GetStatus().GetExitCode() != 137 {
		t.Errorf("calls %q, status %v", made, resp)
	}
}
