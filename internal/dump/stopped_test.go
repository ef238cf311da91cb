package dump

import (
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestCheckStopped(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	signal := func(s unix.Signal, options int) {
		t.Helper()
		if err := unix.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Wait4(pid, nil, options, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkStopped([]int{pid}); err != nil {
		t.Errorf("running: %v", err)
	}
	signal(unix.SIGSTOP, unix.WUNTRACED)
	err := checkStopped([]int{1, pid})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "sleep") || !strings.Contains(err.Error(), "kill -CONT "+strconv.Itoa(pid)) {
		t.Errorf("stopped: %v", err)
	}
	signal(unix.SIGCONT, unix.WCONTINUED)
	if err := checkStopped([]int{pid}); err != nil {
		t.Errorf("running again: %v", err)
	}
	if err := checkStopped([]int{1 << 30}); err != nil {
		t.Errorf("one that has ended: %v", err)
	}
}

func TestCheckTraced(t *testing.T) {
	runtime.LockOSThread() // which is the tracer
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if err := checkStopped([]int{cmd.Process.Pid}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "is traced by process") {
		t.Errorf("error %v", err)
	}
}

func TestCheckStatus(t *testing.T) {
	for status, says := range map[string]string{
		"Name:\tx\nState:\tS (sleeping)\nTracerPid:\t0\nNSpid:\t900\t7\n":      "",
		"Name:\tx\nState:\tZ (zombie)\nTracerPid:\t0\nNSpid:\t900\t7\n":        "",
		"Name:\tx\nState:\tD (disk sleep)\nTracerPid:\t0\nNSpid:\t900\t7\n":    "",
		"Name:\tx\nState:\tT (stopped)\nTracerPid:\t0\nNSpid:\t900\t7\n":       "process 7 (x) of the container, 900 on the node, is stopped",
		"Name:\tx\nState:\tt (tracing stop)\nTracerPid:\t55\nNSpid:\t900\t7\n": "is traced by process 55",
		"Name:\tx\nState:\tS (sleeping)\nTracerPid:\t55\nNSpid:\t900\t7\n":     "is traced by process 55",
	} {
		err := checkStatus([]byte(status))
		if says == "" && err != nil || says != "" && (!errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), says)) {
			t.Errorf("%q: %v", status, err)
		}
	}
}
