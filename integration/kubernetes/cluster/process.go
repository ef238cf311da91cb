package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const (
	startTimeout = 90 * time.Second
	endTimeout   = 30 * time.Second
	// garbageTimeout is more than the minute after which a kubelet looks for sandboxes and logs of pods that are gone.
	garbageTimeout = 2 * time.Minute
	pause          = 50 * time.Millisecond
)

// process is a daemon of the cluster, and its log.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

// launch starts bin/NAME. Its log is NAME.log, which every run continues.
func (c *Cluster) launch(t testing.TB, name string, args ...string) *process {
	t.Helper()
	p := &process{log: c.path(name + ".log"), exited: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("cluster: %v", err)
	}
	defer log.Close()
	p.cmd = exec.Command(filepath.Join(c.bin, name), args...)
	p.cmd.Dir = c.dir
	p.cmd.Env = append(c.environ(), "TMPDIR="+c.path("home"))
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a ^C at the terminal is for the test
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("cluster: %v", err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	return p
}

// environ has no proxy and nothing of the user's: all traffic stays on the machine.
func (c *Cluster) environ() []string {
	return []string{"PATH=" + c.Node.Tools().Path(), "HOME=" + c.path("home"), "LC_ALL=C"}
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *process) end(sig syscall.Signal) error {
	if !p.running() {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(endTimeout):
		_ = p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("%s still ran %v after %v", p.cmd.Path, endTimeout, sig)
	}
}

// await returns when ready is true, and fails the test when the process exits before.
func (p *process) await(t testing.TB, ready func() bool) {
	t.Helper()
	deadline := time.After(startTimeout)
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-p.exited:
			t.Fatalf("cluster: %s exited: %v\n%s", p.cmd.Path, p.cmd.ProcessState, tail(p.log))
		case <-deadline:
			t.Fatalf("cluster: %s is not ready after %v\n%s", p.cmd.Path, startTimeout, tail(p.log))
		}
	}
}

// eventually calls done until it is true or some time has passed. It is for what offers nothing to wait on.
func eventually(timeout time.Duration, done func() bool) bool {
	deadline := time.After(timeout)
	tick := time.NewTicker(5 * pause)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			return done()
		}
	}
	return true
}

// freePort returns a TCP port of the loopback interface that nobody listens on. The daemons take no
// socket that is open already.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func mustPorts(t testing.TB, ports ...*int) {
	t.Helper()
	for _, port := range ports {
		var err error
		if *port, err = freePort(); err != nil {
			t.Fatalf("cluster: %v", err)
		}
	}
}

// tail returns the end of a log.
func tail(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	const most = 6 << 10
	if len(data) > most {
		data = data[len(data)-most:]
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			data = data[i+1:]
		}
	}
	return string(data)
}
