package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// unified starts a process in a cgroup of version 2, below that of a container, whose ID is returned. On a node with
// both versions the hierarchy is there, without controllers.
func unified(t *testing.T, scope string) (id string, pid int) {
	t.Helper()
	hierarchies, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil || len(hierarchies) == 0 {
		t.Fatalf("no cgroup of version 2: %v", err)
	}
	id = strings.ReplaceAll(uuid.NewString()+uuid.NewString(), "-", "")
	top := filepath.Join(hierarchies[0].Mountpoint, fmt.Sprintf(scope, id))
	dir := filepath.Join(top, "below")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for _, d := range []string{dir, top} {
			if err := os.Remove(d); err != nil {
				t.Error(err)
			}
		}
	})
	return id, cmd.Process.Pid
}

// On version 2 the kernel kills a container's whole cgroup, whoever manages it, and no other.
func TestKillGroups(t *testing.T) {
	for _, scope := range []string{"%s", "cri-containerd-%s.scope"} {
		t.Run(scope, func(t *testing.T) {
			id, pid := unified(t, scope)
			other, spared := unified(t, scope)
			if path := unifiedPath(pid, id); path != "/"+fmt.Sprintf(scope, id) {
				t.Errorf("cgroup %q", path)
			}
			if path := unifiedPath(spared, id); path != "" {
				t.Errorf("cgroup of another container: %q", path)
			}
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			killGroups(id, []int{pid, spared})
			if err := Wait(t.Context(), fd); err != nil { // no signal of ours has been sent
				t.Error(err)
			}
			if pids, err := Processes(other); err != nil || !slices.Equal(pids, []int{spared}) {
				t.Errorf("the other container has %v, %v", pids, err)
			}
			killGroups(id, []int{pid}) // has ended
			if n, err := Kill(t.Context(), Victims{ID: other}); err != nil || n != 1 {
				t.Errorf("killed %d, %v", n, err)
			}
		})
	}
}

// Who is outside of the cgroup is killed where somebody knows of it, and who is spared is not.
func TestKillOthers(t *testing.T) {
	id, pids := confined(t, 2)
	_, others := confined(t, 1)
	asked := 0
	n, err := Kill(t.Context(), Victims{
		ID:     id,
		Others: func(context.Context) []int { asked++; return []int{others[0], pids[0]} },
		Spare:  func(pid int) bool { return pid == pids[1] },
	})
	if err != nil || n != 2 || asked < 2 {
		t.Errorf("killed %d, %v, asked %d times", n, err, asked)
	}
	for pid, want := range map[int]bool{pids[0]: true, others[0]: true, pids[1]: false} {
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
		if got := info.Signo != 0; got != want {
			t.Errorf("process %d ended: %t", pid, got)
		}
	}
}
