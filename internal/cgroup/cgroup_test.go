package cgroup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/uuid"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// confined starts processes in a cgroup of their own, and returns its name and them.
func confined(t *testing.T, count int) (id string, pids []int) {
	t.Helper()
	hierarchies, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil || len(hierarchies) == 0 {
		t.Fatalf("no cgroups: %v", err)
	}
	id = uuid.NewString() + uuid.NewString()
	// v1's, or the only one of v2.
	i := slices.IndexFunc(hierarchies, func(m *mountinfo.Info) bool { return filepath.Base(m.Mountpoint) == "freezer" })
	dir := filepath.Join(hierarchies[max(i, 0)].Mountpoint, "cri-restore-test-"+id)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var cmds []*exec.Cmd
	t.Cleanup(func() {
		for _, cmd := range cmds {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	for range count {
		cmd := exec.Command("sleep", "infinity")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, cmd.Process.Pid)
	}
	return id, pids
}

func TestKill(t *testing.T) {
	id, pids := confined(t, 3)
	_, others := confined(t, 1)
	found, err := Processes(id)
	if slices.Sort(found); err != nil || !slices.Equal(found, slices.Sorted(slices.Values(pids))) {
		t.Errorf("%v, %v, want %v", found, err, pids)
	}
	killed, err := Kill(t.Context(), Victims{ID: id, Spare: func(pid int) bool { return pid == pids[1] }})
	if err != nil || killed != 2 {
		t.Errorf("killed %d, %v", killed, err)
	}
	for pid, want := range map[int]bool{pids[0]: true, pids[1]: false, pids[2]: true, others[0]: false} {
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
		if got := info.Signo != 0; got != want {
			t.Errorf("process %d ended: %t", pid, got)
		}
	}
	// What is no ID of a container names nobody.
	if found, err := Processes("cri-restore"); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	_, pids := confined(t, 1)
	fd, err := unix.PidfdOpen(pids[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	go cancel(gone)
	if err := Wait(ctx, fd); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}
