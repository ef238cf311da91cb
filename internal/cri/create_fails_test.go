package cri

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/restore"
	"github.com/cri-restore/cri-restore/internal/turn"
)

// sources are the two places that a checkpoint comes from. Each returns the image name of the request.
var sources = map[string]func(w *world) string{
	"image":   func(w *world) string { return w.checkpointImage(checkpointName, w.files()) },
	"archive": func(w *world) string { return w.archive(w.files()) },
}

// calls returns what a create that succeeds calls, beginning with the look at the sandbox: what is before it
// decides whether this is a checkpoint at all, and is containerd's to answer if it fails.
func calls(t *testing.T, source func(*world) string) (skip int, made []string) {
	t.Helper()
	w := newWorld(t)
	r := w.request(source(w))
	w.faults.arm(0, nil)
	_, err := w.runtime.CreateContainer(w.ctx, r)
	check(t, err)
	made = w.faults.disarm()
	skip = slices.Index(made, "sandbox status")
	for _, call := range []string{"create lease", "image status", "CreateContainer", "get container",
		"mounts of snapshot", "update container", "delete lease"} {
		if !slices.Contains(made, call) {
			t.Fatalf("no %s in %q", call, made)
		}
	}
	return skip, made
}

// every runs f for each call of a create, in a world of its own.
func every(t *testing.T, f func(t *testing.T, w *world, r *runtime.CreateContainerRequest, at int, call string)) {
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			skip, made := calls(t, source)
			for at, call := range made[skip:] {
				t.Run(fmt.Sprintf("%d %s", at, call), func(t *testing.T) {
					w := newWorld(t)
					f(t, w, w.request(source(w)), skip+at+1, call)
				})
			}
		})
	}
}

// Whatever call of containerd fails: nothing is left, and the next try works.
func TestCreateLeavesNothingWhateverFails(t *testing.T) {
	every(t, func(t *testing.T, w *world, r *runtime.CreateContainerRequest, at int, call string) {
		before := w.inventory()
		w.faults.arm(at, nil)
		resp, err := w.runtime.CreateContainer(w.ctx, r)
		w.faults.disarm()
		if call == "delete lease" {
			// Too late to fail: the record keeps the view, and the lease expires.
			check(t, err)
			w.ready(resp.ContainerId)
			return
		}
		if !errors.Is(err, errInjected) {
			t.Fatalf("got %v, want the injected error", err)
		}
		w.unchanged(before)
		resp, err = w.runtime.CreateContainer(w.ctx, r)
		check(t, err)
		w.ready(resp.ContainerId)
	})
}

// The caller gives up, at any moment.
func TestCreateLeavesNothingWhenItsCallerIsGone(t *testing.T) {
	every(t, func(t *testing.T, w *world, r *runtime.CreateContainerRequest, at int, _ string) {
		before := w.inventory()
		ctx, cancel := context.WithCancel(w.ctx)
		defer cancel()
		w.faults.arm(at, func(string) error { cancel(); return nil })
		resp, err := w.runtime.CreateContainer(ctx, r)
		w.faults.disarm()
		if err == nil {
			w.ready(resp.ContainerId)
			return
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		w.unchanged(before)
		resp, err = w.runtime.CreateContainer(w.ctx, r)
		check(t, err)
		w.ready(resp.ContainerId)
	})
}

// A mistake of ours, at any moment: the request fails and everything is taken back, its turn with it.
func TestCreateSurvivesAPanic(t *testing.T) {
	every(t, func(t *testing.T, w *world, r *runtime.CreateContainerRequest, at int, _ string) {
		w.node.Restores.Turns = turn.New(1)
		before := w.inventory()
		w.faults.arm(at, func(string) error { panic("a mistake") })
		_, err := w.runtime.CreateContainer(w.ctx, r)
		w.faults.disarm()
		if !errdefs.IsInternal(err) || !strings.Contains(err.Error(), "panic: a mistake") {
			t.Fatalf("got %v", err)
		}
		w.unchanged(before)
		ctx, cancel := context.WithTimeout(w.ctx, time.Minute) // for a turn that was not given back
		defer cancel()
		resp, err := w.runtime.CreateContainer(ctx, r)
		check(t, err)
		w.ready(resp.ContainerId)
	})
}

// containerd is killed, at any moment: nothing is undone. When it starts again there is nothing that belongs to
// no container, and a container that is not ready says so.
func TestCrashDuringCreate(t *testing.T) {
	every(t, func(t *testing.T, w *world, r *runtime.CreateContainerRequest, at int, _ string) {
		before := w.inventory()
		w.faults.arm(at, func(string) error { goruntime.Goexit(); return nil }) // no error and no panic is to be seen
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, err := w.runtime.CreateContainer(w.ctx, r)
			t.Errorf("survived: %v", err)
		}()
		<-gone
		w.faults.disarm()
		never := func(context.Context, string) (bool, error) { return false, nil }
		for range 2 {
			check(t, w.node.Restores.Reconcile(w.ctx, never))
			w.node.Restores.Wait()
		}
		if len(w.inner.names) == 0 {
			w.unchanged(before)
			return
		}
		id := slices.Collect(maps.Keys(w.inner.names))[0]
		c, _, err := w.node.Restores.Get(w.ctx, id)
		if err == nil {
			w.ready(id)
		} else if !errdefs.IsNotFound(err) || !restore.Unfinished(c) {
			t.Errorf("the container would start from its base image: %v", err)
		}
		_, err = w.runtime.RemoveContainer(w.ctx, &runtime.RemoveContainerRequest{ContainerId: id})
		check(t, err)
		// The log is the kubelet's to remove.
		check(t, os.RemoveAll(filepath.Join(w.dir, "logs")))
		w.unchanged(before)
	})
}

func TestCreateRefusesAndLeavesNothing(t *testing.T) {
	file := func(name, content string) func(*world, map[string]string) {
		return func(_ *world, files map[string]string) { files[name] = content }
	}
	for name, c := range map[string]struct {
		files   func(w *world, files map[string]string)
		request func(w *world, r *runtime.CreateContainerRequest)
		is      func(error) bool
		says    []string
		created bool // containerd had created the container
	}{
		"another stdin": {nil, func(_ *world, r *runtime.CreateContainerRequest) { r.Config.Stdin = true },
			errdefs.IsFailedPrecondition, []string{checkpointName, "stdin: false"}, true},
		"another network": {func(_ *world, files map[string]string) {
			files["spec.dump"] = strings.Replace(files["spec.dump"], `{"type":"pid"}`, `{"type":"pid"},{"type":"network"}`, 1)
		}, nil, errdefs.IsFailedPrecondition, []string{checkpointName, "network namespace", "hostNetwork"}, true},
		"no diff": {file("rootfs-diff.tar", strings.Repeat("garbage ", 1024)), nil, errdefs.IsInvalidArgument,
			[]string{checkpointName, "rootfs-diff.tar"}, true},
		"diff leads out": {func(_ *world, files map[string]string) {
			files["rootfs-diff.tar"] = tarball(t, map[string]string{"../x": ""})
		}, nil, errdefs.IsInvalidArgument, []string{checkpointName, "rootfs-diff.tar", "leaves the root file system"}, true},
		"log path is a directory": {nil, func(_ *world, r *runtime.CreateContainerRequest) { r.Config.LogPath = "counter" },
			errdefs.IsInvalidArgument, []string{checkpointName, "container log"}, true},
		"the node's CRIU configuration": {nil, func(w *world, _ *runtime.CreateContainerRequest) {
			w.node.Restores.CRIUConfig = filepath.Join(t.TempDir(), "criu.conf")
			check(t, os.WriteFile(w.node.Restores.CRIUConfig, []byte("a\x00b"), 0o600))
		}, errdefs.IsInvalidArgument, []string{"criu_config", "criu.conf", "NUL"}, true},
		"view cannot be mounted": {nil, func(w *world, _ *runtime.CreateContainerRequest) {
			w.sn.mounts = w.bindViews("/no/such/directory")
		}, func(err error) bool { return errors.Is(err, os.ErrNotExist) }, []string{checkpointName}, false},
		"rootfs cannot be mounted": {nil, func(w *world, _ *runtime.CreateContainerRequest) {
			w.sn.mounts = func(key string) []mount.Mount {
				if strings.HasPrefix(key, restore.SnapshotKey("")) {
					return nil
				}
				return []mount.Mount{{Type: "bind", Source: "/no/such/directory", Options: []string{"rbind"}}}
			}
		}, func(err error) bool { return errors.Is(err, os.ErrNotExist) }, []string{checkpointName}, true},
		"base unknown, registry away": {func(w *world, files map[string]string) {
			files["config.dump"] = strings.ReplaceAll(files["config.dump"], w.base, "sha256:"+strings.Repeat("0", 64))
		}, nil, errdefs.IsUnavailable, []string{checkpointName, baseRepository}, false},
		"policy of namespaces": {nil, func(w *world, _ *runtime.CreateContainerRequest) {
			w.inner.sandboxes[sandbox].Metadata.Namespace = "kube-system"
		}, errdefs.IsPermissionDenied, []string{"kube-system", "allowed_namespaces"}, false},
		"annotation of the plugin": {nil, func(_ *world, r *runtime.CreateContainerRequest) {
			r.Config.Annotations[restore.AnnotationID] = "x"
		}, errdefs.IsInvalidArgument, []string{restore.AnnotationID}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.images.pull = func(context.Context, *runtime.PullImageRequest) (string, error) {
				return "", errors.New("connection refused")
			}
			w.node.Policy = policyOf(t, "default")
			files := w.files()
			if c.files != nil {
				c.files(w, files)
			}
			r := w.request(w.checkpointImage(checkpointName, files))
			check(t, os.MkdirAll(filepath.Join(w.dir, "logs", "counter"), 0o755))
			if c.request != nil {
				c.request(w, r)
			}
			before := w.inventory()
			_, err := w.runtime.CreateContainer(w.ctx, r)
			wantError(t, err, c.is, c.says...)
			w.unchanged(before)
			if created := len(w.inner.removed) > 0; created != c.created {
				t.Errorf("containerd had created the container: %t", created)
			}
		})
	}
}

// A step that cannot be undone does not keep the others from it.
func TestUndoGoesOn(t *testing.T) {
	w := newWorld(t)
	r := w.request(sources["image"](w))
	w.inner.after = func() {
		// The container stays, whatever is tried; its removal fails too.
		w.inner.after = nil
		w.faults.arm(1, func(string) error { return errInjected }) // the get of the container
	}
	before := w.inventory()
	w.runtime.RuntimeServiceServer = noRemoval{w.inner}
	_, err := w.runtime.CreateContainer(w.ctx, r)
	w.faults.disarm()
	if !errors.Is(err, errInjected) {
		t.Fatalf("%v", err)
	}
	id := slices.Collect(maps.Keys(w.inner.names))[0]
	w.unchanged(append(before, "container "+id, "name "+sandbox+"/counter of "+id, "snapshot Active "+id))
	c, _, err := w.node.Restores.Get(w.ctx, id)
	if !errdefs.IsNotFound(err) || !restore.Unfinished(c) {
		t.Errorf("the container that stays would start from its base image: %v", err)
	}
}

type noRemoval struct{ *fakeRuntime }

func (noRemoval) RemoveContainer(context.Context, *runtime.RemoveContainerRequest) (*runtime.RemoveContainerResponse,
	error) {
	return nil, errInjected
}
