package integration

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestRestoreTerminal restores a shell at a terminal, and talks to it (points 7 and 8).
func TestRestoreTerminal(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	c := pod.Run("terminal", n.Image(harness.Busybox), harness.Tty(), harness.Stdin(), harness.Shell(
		`tty; stty size; stty -echo; i=0; while read -r line; do i=$((i+1)); echo "line $i: $line"; done`))
	c.WaitLine("/dev/pts/0")
	a := attach(t, n, c, true)
	a.say("before")
	a.expect("line 1: before")
	a.close()
	archive := checkpointOf(t, c)
	pod.Remove()
	name := imageOf(t, n, archive)

	restored := n.Pod(t).Run("restored", name, harness.Tty(), harness.Stdin())
	for fd := range 3 {
		if got := strings.TrimSpace(restored.Exec("readlink", "/proc/1/fd/"+string(rune('0'+fd)))); got != "/dev/pts/0" {
			t.Errorf("descriptor %d: got %q, want /dev/pts/0", fd, got)
		}
	}
	a = attach(t, n, restored, true)
	a.say("after")
	a.expect("line 2: after")
	a.close()
	// Who attaches again finds the same process.
	a = attach(t, n, restored, true)
	a.say("again")
	a.expect("line 3: again")
	a.close()
	restored.WaitLine("line 3: again")
	if log := strings.Join(restored.Log(), "\n"); !strings.Contains(log, "line 1: before") {
		t.Errorf("the log has no line from before the checkpoint:\n%s", log)
	}
	if out := n.Crictl("exec", restored.ID, "ps", "-o", "pid,tty,args"); !strings.Contains(out, "136,0") {
		t.Errorf("no process has a terminal:\n%s", out)
	}
}

// TestRestoreStdin restores a process that reads its standard input from a pipe, and writes
// into that (points 7 and 8).
func TestRestoreStdin(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	c := pod.Run("reader", n.Image(harness.Busybox), harness.Stdin(), harness.Shell(
		`i=0; echo ready; while read -r line; do i=$((i+1)); echo "line $i: $line"; done; echo end`))
	c.WaitLine("ready")
	a := attach(t, n, c, false)
	a.say("before")
	a.expect("line 1: before")
	a.close()
	archive := checkpointOf(t, c)
	pod.Remove()
	name := imageOf(t, n, archive)

	restored := n.Pod(t).Run("restored", name, harness.Stdin())
	a = attach(t, n, restored, false)
	a.say("after")
	a.expect("line 2: after")
	a.close()
	restored.WaitLine("line 2: after")

	// stdinOnce: the end of the first attachment is the end of the input.
	once := func(c *runtime.ContainerConfig) { c.StdinOnce = true }
	restored = n.Pod(t).Run("restored", name, harness.Stdin(), once)
	a = attach(t, n, restored, false)
	a.say("once")
	a.expect("line 2: once")
	a.close()
	if status := restored.WaitExited(); status.GetExitCode() != 0 {
		t.Errorf("exit code %d after the end of the input", status.GetExitCode())
	}
	if log := restored.Log(); log[len(log)-1] != "end" {
		t.Errorf("the last line is %q", log[len(log)-1])
	}
}

// attachment is a crictl attach.
type attachment struct {
	t      *testing.T
	in     io.WriteCloser
	lines  chan string
	cmd    *exec.Cmd
	cancel context.CancelFunc
}

// attach runs crictl attach, at a terminal of its own if terminal says so.
func attach(t *testing.T, n *harness.Node, c *harness.Container, terminal bool) *attachment {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	endpoint := "unix://" + n.Socket()
	args := []string{"--config", filepath.Join(t.TempDir(), "none.yaml"), "--runtime-endpoint", endpoint, "attach",
		"--stdin"}
	if terminal {
		args = append(args, "--tty")
	}
	writeFile(t, args[1], "timeout: 30\n")
	cmd := exec.CommandContext(ctx, filepath.Join(n.Tools().Bin, "crictl"), append(args, c.ID)...)
	a := &attachment{t: t, lines: make(chan string, 1000), cmd: cmd, cancel: cancel}
	var out io.Reader
	if terminal {
		pty, slave, err := console.NewPty()
		if err != nil {
			t.Fatal(err)
		}
		tty, err := os.OpenFile(slave, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer tty.Close()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		a.in, out = pty, pty
	} else {
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		a.in, out = in, stdout
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	go func() {
		defer close(a.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			a.lines <- strings.TrimRight(s.Text(), "\r")
		}
	}()
	return a
}

// say writes a line.
func (a *attachment) say(line string) {
	a.t.Helper()
	if _, err := io.WriteString(a.in, line+"\n"); err != nil {
		a.t.Fatalf("write to attached container: %v", err)
	}
}

// expect waits for a line.
func (a *attachment) expect(want string) {
	a.t.Helper()
	var seen []string
	for line := range a.lines {
		if line == want {
			return
		}
		seen = append(seen, line)
	}
	a.t.Fatalf("attached container: no %q in %q", want, seen)
}

// close ends the attachment, as ^C or the end of the input does.
func (a *attachment) close() {
	a.t.Helper()
	if err := a.in.Close(); err != nil {
		a.t.Error(err)
	}
	if a.cmd.Stdin != nil && a.cmd.Process != nil {
		a.cancel()
	}
	_ = a.cmd.Wait()
	for range a.lines {
	}
}
