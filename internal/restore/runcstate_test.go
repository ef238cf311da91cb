package restore

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"github.com/cri-restore/cri-restore/internal/runc"
)

// TestRemoveRuncState: runc is asked if there is something to remove, and only then. (That the real one removes it:
// TestCrashLeavesRuncState.)
func TestRemoveRuncState(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	asked, root := filepath.Join(dir, "asked"), filepath.Join(dir, "runc-root")
	script := filepath.Join(dir, "runc")
	check(t, os.WriteFile(script, []byte("#!/bin/sh\necho \"$@\" >> "+asked+"\nrm -r \"$2/$5\"\n"), 0o755))
	w.store.Runc = &runc.Binaries{Path: dir}
	o, err := typeurl.MarshalAny(&options.Options{Root: root})
	check(t, err)
	c := &containers.Container{ID: "c1", Runtime: containers.RuntimeInfo{Name: RuntimeRunc, Options: o}}
	check(t, w.store.RemoveRuncState(w.ctx, c))
	if _, err := os.Stat(asked); err == nil {
		t.Error("runc was asked though there is nothing")
	}
	for range 2 {
		state := filepath.Join(root, "k8s.io", "c1")
		check(t, os.MkdirAll(state, 0o700))
		check(t, w.store.RemoveRuncState(w.ctx, c))
		if _, err := os.Stat(state); err == nil {
			t.Error("the state is there")
		}
	}
	said, err := os.ReadFile(asked)
	check(t, err)
	line := "--root " + filepath.Join(root, "k8s.io") + " delete --force c1\n"
	if string(said) != line+line {
		t.Errorf("runc was told %q", said)
	}
	check(t, os.MkdirAll(filepath.Join(root, "k8s.io", "c1"), 0o700))
	check(t, os.WriteFile(script, []byte("#!/bin/sh\necho no >&2\nexit 1\n"), 0o755))
	wantError(t, w.store.RemoveRuncState(w.ctx, c), errdefs.IsInternal, "c1", root, "no")
}
