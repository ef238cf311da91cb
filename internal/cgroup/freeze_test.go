package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A container may have cgroups of its own below its cgroup. All of them are frozen, whichever a process is in.
func TestFreeze(t *testing.T) {
	id, pids := confined(t, 1)
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/cri-restore-test-" + id)
	if len(dirs) == 0 {
		dirs, err = filepath.Glob("/sys/fs/cgroup/cri-restore-test-" + id)
	}
	if err != nil || len(dirs) != 1 {
		t.Fatalf("%q, %v", dirs, err)
	}
	if err := Freeze(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if frozen, err := Frozen(t.Context(), id); err != nil || !frozen {
		t.Errorf("frozen %t, %v", frozen, err)
	}
	if err := Thaw(t.Context(), id); err != nil {
		t.Error(err)
	}
	if frozen, err := Frozen(t.Context(), id); err != nil || frozen {
		t.Errorf("frozen %t, %v, after the thaw", frozen, err)
	}
	if err := Freeze(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	// v1, v2
	var state string
	for _, name := range []string{"freezer.state", "cgroup.freeze"} {
		if content, err := os.ReadFile(filepath.Join(dirs[0], name)); err == nil {
			state = strings.TrimSpace(string(content))
			thaw := map[string]string{"FROZEN": "THAWED", "1": "0"}[state]
			if err := os.WriteFile(filepath.Join(dirs[0], name), []byte(thaw), 0o600); err != nil {
				t.Errorf("thaw from %q: %v", state, err)
			}
		}
	}
	if state != "FROZEN" && state != "1" {
		t.Errorf("the cgroup is %q", state)
	}
	if err := unix.Kill(pids[0], 0); err != nil {
		t.Error(err)
	}
}

func TestFreezeNothing(t *testing.T) {
	if err := Freeze(t.Context(), strings.Repeat("0123456789abcdef", 4)); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	// A process that has ended is in the root cgroup.
	if err := Thaw(t.Context(), strings.Repeat("0123456789abcdef", 4)); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if _, err := groupOf(os.Getpid(), strings.Repeat("0123456789abcdef", 4)); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

func TestUpTo(t *testing.T) {
	const id = "0123456789abcdef"
	for path, want := range map[string]string{
		"/kubepods/pod1/" + id:                              "/kubepods/pod1/" + id,
		"/kubepods/pod1/" + id + "/own/below":               "/kubepods/pod1/" + id,
		"/kubepods.slice/cri-containerd-" + id + ".scope/x": "/kubepods.slice/cri-containerd-" + id + ".scope",
		"/": "",
	} {
		if got, err := upTo(path, id); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}
