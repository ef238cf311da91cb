package harness

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	stopTimeout = 20 * time.Second
	readyPause  = 20 * time.Millisecond
	logTail     = 16 << 10
)

// daemon is one run of containerd.
type daemon struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has been waited for
	wanted atomic.Bool   // the exit is the harness's own doing
}

// Start starts containerd and returns when CRI reports runtime and network ready.
// It does nothing when containerd runs.
func (n *Node) Start() {
	n.t.Helper()
	if err := n.TryStart(); err != nil {
		n.t.Fatalf("harness: start containerd: %v", err)
	}
}

// TryStart is Start for containerds that may not come up with CRI.
func (n *Node) TryStart() error {
	n.t.Helper()
	if n.running() {
		return nil
	}
	if err := n.launch(); err != nil {
		return err
	}
	return n.ready()
}

// Stop ends containerd with SIGTERM, as an init system does. Containers go on.
func (n *Node) Stop() {
	n.t.Helper()
	if err := n.end(syscall.SIGTERM); err != nil {
		n.t.Fatalf("harness: stop containerd: %v", err)
	}
}

// Kill ends containerd with SIGKILL and returns when it is gone. Containers go on.
func (n *Node) Kill() {
	n.t.Helper()
	if err := n.end(syscall.SIGKILL); err != nil {
		n.t.Fatalf("harness: kill containerd: %v", err)
	}
}

// Restart is Stop and Start.
func (n *Node) Restart() {
	n.t.Helper()
	n.Stop()
	n.Start()
}

// Reconfigure stops containerd, adds options to the node's and starts it again. Options
// about the binary, the configuration file and the environment have an effect, those
// about the registry and the snapshotter have none or break the node.
func (n *Node) Reconfigure(opts ...Option) {
	n.t.Helper()
	if err := n.TryReconfigure(opts...); err != nil {
		n.t.Fatalf("harness: reconfigure: %v", err)
	}
}

// TryReconfigure is Reconfigure for configurations that containerd should refuse. After
// an error the test must reconfigure the node to something that works.
func (n *Node) TryReconfigure(opts ...Option) error {
	n.t.Helper()
	n.Stop()
	for _, opt := range opts {
		opt(&n.opts)
	}
	if err := n.writeConfig(); err != nil {
		return err
	}
	return n.TryStart()
}

// DaemonPid is the process ID of containerd, 0 when it does not run.
func (n *Node) DaemonPid() int {
	if !n.running() {
		return 0
	}
	return n.daemon.cmd.Process.Pid
}

// DaemonLog returns what containerd, all runs of it, has logged so far.
func (n *Node) DaemonLog() string {
	n.t.Helper()
	data, err := os.ReadFile(n.logPath())
	if err != nil {
		n.t.Fatalf("harness: %v", err)
	}
	return string(data)
}

func (n *node) logPath() string { return n.path("containerd.log") }

func (n *node) running() bool {
	if n.daemon == nil {
		return false
	}
	select {
	case <-n.daemon.exited:
		return false
	default:
		return true
	}
}

func (n *node) launch() error {
	binary := n.opts.binary
	if binary == "" {
		binary = filepath.Join(n.tools.Bin, "containerd")
	}
	log, err := os.OpenFile(n.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(binary, "--config", n.path("config.toml"), "--log-level", n.opts.logLevel)
	cmd.Dir = n.dir
	cmd.Env = n.environ()
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: a ^C at the terminal is for the test, which then cleans up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	d := &daemon{cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(d.exited)
	}()
	n.daemon = d
	return nil
}

// environ is the caller's environment without what would change the daemon's
// behaviour from test machine to test machine.
func (n *node) environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "OTEL_") || strings.HasSuffix(strings.ToLower(name), "_proxy") ||
			name == "NOTIFY_SOCKET" || name == "PATH" || name == "GOCOVERDIR" {
			continue
		}
		env = append(env, kv)
	}
	path := n.tools.Path()
	if n.opts.withoutCRIU {
		path = n.tools.Bin
	}
	// The marker is how the inventory finds shims, runc and CRIU of this node.
	env = append(env, "PATH="+path, markerEnv+"="+n.id)
	return append(env, n.opts.env...)
}

func (n *node) end(sig syscall.Signal) error {
	if !n.running() {
		return nil
	}
	d := n.daemon
	d.wanted.Store(true)
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.exited:
		return nil
	case <-time.After(stopTimeout):
		_ = d.cmd.Process.Kill()
		<-d.exited
		return fmt.Errorf("process %d still ran %v after %v", d.cmd.Process.Pid, stopTimeout, sig)
	}
}

// ready waits until CRI answers and both its conditions, runtime and network, are true.
func (n *Node) ready() error {
	ctx, cancel := deadlineContext(n.t, n.opts.startTimeout)
	defer cancel()
	d := n.daemon
	go func() {
		select {
		case <-d.exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	conn, err := n.dial()
	if err != nil {
		return err
	}
	conn.ResetConnectBackoff()
	tick := time.NewTicker(readyPause)
	defer tick.Stop()
	var last error
	for {
		// WaitForReady waits for the socket; the loop only bridges the moment between
		// the socket and the end of CRI's own initialisation.
		resp, err := runtime.NewRuntimeServiceClient(conn).Status(ctx, &runtime.StatusRequest{}, grpc.WaitForReady(true))
		if err == nil {
			if err = conditions(resp); err == nil {
				return nil
			}
		}
		if status.Code(err) == codes.Unimplemented {
			return fmt.Errorf("containerd serves, but without its CRI plugin: %w\n%s", err, n.tail())
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if !n.running() {
				return fmt.Errorf("containerd exited: %s\n%s", d.cmd.ProcessState, n.tail())
			}
			return errors.Join(ctx.Err(), last)
		}
	}
}

func conditions(resp *runtime.StatusResponse) error {
	var errs []error
	for _, c := range resp.GetStatus().GetConditions() {
		if !c.Status && (c.Type == runtime.RuntimeReady || c.Type == runtime.NetworkReady) {
			errs = append(errs, fmt.Errorf("%s: %s %s", c.Type, c.Reason, c.Message))
		}
	}
	return errors.Join(errs...)
}

// dial returns the one connection of the node; it outlives restarts of the daemon.
func (n *node) dial() (*grpc.ClientConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil {
		return n.conn, nil
	}
	conn, err := grpc.NewClient("unix://"+n.socket(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: readyPause, Multiplier: 1.2, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20), grpc.MaxCallSendMsgSize(16<<20)),
	)
	n.conn = conn
	return conn, err
}

// tail returns the end of the daemon's log.
func (n *node) tail() string {
	f, err := os.Open(n.logPath())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > logTail {
		_, _ = f.Seek(-logTail, io.SeekEnd)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	if i := bytes.IndexByte(data, '\n'); len(data) >= logTail && i >= 0 {
		data = data[i+1:]
	}
	return string(data)
}
