package pageserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/cgroup"
)

// Supervise runs a page server to its end, for the program [Program]. It says on notify that CRIU listens;
// if nobody is there to hear it, the server ends.
func Supervise(c Config, notify *os.File) error {
	held, err := lock(c.Work)
	if err != nil {
		return err
	}
	defer held.Close()
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	result, err := reserve(c.Work)
	if err != nil {
		return err
	}
	defer result.Close()
	s := &supervisor{Config: c, result: result}
	if err := s.start(notify); err != nil {
		return errors.Join(err, result.write(Result{Lost: err.Error()}))
	}
	return s.trace()
}

type supervisor struct {
	Config
	result   *outcome
	criu     *exec.Cmd
	stopping atomic.Bool
}

// start starts CRIU, traced by this thread.
func (s *supervisor) start(notify *os.File) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	// Only the thread that has started a traced process can go on with it (ptrace(2)).
	runtime.LockOSThread()
	s.criu = exec.CommandContext(context.Background(), s.CRIU, "lazy-pages", "--no-default-config", "-D", s.Images, "-W",
		s.Work, "-o", LogFile, "--status-fd", "3")
	s.criu.Dir = "/"
	s.criu.ExtraFiles = []*os.File{w}
	// In a group of its own: a signal to the supervisor's would end both at once.
	s.criu.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Setpgid: true}
	err = s.criu.Start()
	w.Close()
	if err != nil {
		return err
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, unix.SIGTERM)
	go func() {
		<-told
		s.stop()
	}()
	go func() {
		defer notify.Close()
		defer r.Close()
		if n, _ := r.Read(make([]byte, 1)); n == 0 {
			return // it has ended
		}
		if _, err := fmt.Fprintf(notify, ready, s.criu.Process.Pid); err != nil {
			s.stop() // containerd has ended meanwhile
		}
	}()
	return nil
}

// stop makes CRIU end; what is to be done about that is done then.
func (s *supervisor) stop() {
	s.stopping.Store(true)
	_ = s.criu.Process.Kill()
}

// trace lets CRIU run until it exits, and holds it there until the container can no longer
// see what its exit does.
func (s *supervisor) trace() error {
	var (
		pid     = s.criu.Process.Pid
		started bool
		lost    error
	)
	for {
		var ws unix.WaitStatus
		if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return errors.Join(lost, fmt.Errorf("wait for criu: %w", err))
		}
		if !ws.Stopped() {
			return lost
		}
		pass := int(ws.StopSignal())
		switch event := int(ws) >> 16; {
		case event == unix.PTRACE_EVENT_EXIT:
			lost = s.exits(pid)
			pass = 0
		case event != 0:
			pass = 0
		case !started:
			// The stop at exec that ptrace(2) makes. If this process is killed, CRIU is not: it goes on.
			if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACEEXIT|unix.PTRACE_O_TRACEEXEC); err != nil {
				_ = s.criu.Process.Kill()
				lost = fmt.Errorf("trace criu: %w", err)
			}
			started, pass = true, 0
		case pass == int(unix.SIGSTOP) || pass == int(unix.SIGTSTP) || pass == int(unix.SIGTTIN) || pass == int(unix.SIGTTOU):
			pass = 0 // it serves
		}
		if err := unix.PtraceCont(pid, pass); err != nil && !errors.Is(err, unix.ESRCH) {
			_ = s.criu.Process.Kill()
		}
	}
}

// exits does what is to be done at the beginning of CRIU's exit. All its files are open still.
func (s *supervisor) exits(pid int) error {
	message, err := unix.PtraceGetEventMsg(pid)
	status := unix.WaitStatus(message)
	if err == nil && status.Exited() && status.ExitStatus() == 0 {
		return s.result.write(Result{Drained: true})
	}
	why := fmt.Errorf("criu lazy-pages exited with status %d", status.ExitStatus())
	switch {
	case err != nil:
		why = fmt.Errorf("criu lazy-pages ended: %w", err)
	case s.stopping.Load():
		why = errors.New("the page server was stopped")
	case status.Signaled():
		why = fmt.Errorf("criu lazy-pages was killed by signal %d (%v)", int(status.Signal()), status.Signal())
	}
	// First the reason, so that whoever sees the container end can see it.
	werr := s.result.write(Result{Lost: why.Error()})
	killed, kerr := cgroup.Kill(context.Background(),
		cgroup.Victims{ID: s.Container, Spare: func(p int) bool { return p == pid }})
	if kerr == nil && killed == 0 {
		// There was nobody to miss the memory: the container had ended, or was not restored yet.
		return errors.Join(werr, s.result.write(Result{Lost: why.Error(), Drained: true}))
	}
	return errors.Join(why, werr, kerr)
}
