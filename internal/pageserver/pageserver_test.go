package pageserver

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// supervisor makes this test binary the program of the supervisor.
const supervisorEnv = "PAGESERVER_TEST_SUPERVISOR"

func TestMain(m *testing.M) {
	if os.Getenv(supervisorEnv) == "" {
		os.Exit(m.Run())
	}
	args := map[string]string{}
	for i := 1; i+1 < len(os.Args); i += 2 {
		args[os.Args[i]] = os.Args[i+1]
	}
	err := Supervise(Config{Container: args["-container"], CRIU: args["-criu"], Images: args["-images"],
		Work: args["-work"]}, os.NewFile(3, "notify"))
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// world is a work directory and a program in the place of CRIU, which gets -W WORK as its fifth and sixth argument.
func world(t *testing.T, script string) Config {
	t.Helper()
	t.Setenv(supervisorEnv, "1")
	dir := t.TempDir()
	program := filepath.Join(dir, "criu")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{Program: self, CRIU: program, Container: strings.Repeat("c", 64), Images: dir, Work: dir}
}

const (
	listens = "printf '\\0' >&3; exec 3>&-; "
	until   = "while [ ! -e $(dirname $0)/go ]; do read -t 0.02 x <> $(dirname $0)/fifo; done; "
)

func start(t *testing.T, c Config) *Server {
	t.Helper()
	if err := unix.Mkfifo(filepath.Join(c.Work, "fifo"), 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = Stop(context.Background(), c.Work)
		s.Close()
	})
	return s
}

func wait(t *testing.T, s *Server) (*Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return s.Wait(ctx)
}

func TestServerThatDrains(t *testing.T) {
	c := world(t, listens+"exec sleep 0.3")
	s := start(t, c)
	if s.PID() == 0 {
		t.Error("no PID")
	}
	again, err := Find(c.Work)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for _, s := range []*Server{s, again} {
		if r, err := wait(t, s); err != nil || !r.Drained || r.Lost != "" || time.Since(r.Ended) > time.Minute {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if _, err := Find(c.Work); !errdefs.IsNotFound(err) {
		t.Errorf("found after its end: %v", err)
	}
	if err := Stop(t.Context(), c.Work); err != nil {
		t.Error(err)
	}
}

// What ends too early is told as such, though nobody had to be killed here.
func TestServerThatFails(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		kill   unix.Signal
		says   string
	}{
		"exit":   {listens + "sleep 0.2; exit 3", 0, "exited with status 3"},
		"killed": {listens + "exec sleep 60", unix.SIGKILL, "killed by signal 9"},
		"signal": {listens + "exec sleep 60", unix.SIGSEGV, "killed by signal 11"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, world(t, tc.script))
			if tc.kill != 0 {
				if err := unix.Kill(s.PID(), tc.kill); err != nil {
					t.Fatal(err)
				}
			}
			if r, err := wait(t, s); err != nil || !strings.Contains(r.Lost, tc.says) {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

func TestServerThatDoesNotStart(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		script string
		says   string
	}{
		"ends":       {nil, "exit 1", "exited with status 1"},
		"no CRIU":    {func(c *Config) { c.CRIU = "/nowhere" }, "", "/nowhere"},
		"no program": {func(c *Config) { c.Program = "/nowhere" }, "", "/nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			c := world(t, tc.script)
			if tc.change != nil {
				tc.change(&c)
			}
			if _, err := Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
			if _, err := Find(c.Work); !errdefs.IsNotFound(err) {
				t.Errorf("left: %v", err)
			}
		})
	}
	// One that never says anything is ended.
	c := world(t, "exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Start(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := Find(c.Work); !errdefs.IsNotFound(err) {
		t.Errorf("left: %v", err)
	}
}

func TestStop(t *testing.T) {
	c := world(t, listens+"exec sleep 60")
	s := start(t, c)
	if err := Stop(t.Context(), c.Work); err != nil {
		t.Fatal(err)
	}
	if r, err := wait(t, s); err != nil || r.Lost != "the page server was stopped" {
		t.Errorf("%+v, %v", r, err)
	}
	if unix.Kill(s.PID(), 0) == nil {
		t.Error("CRIU is still there")
	}
}

// A supervisor that was killed is noticed, and what it leaves is found by the work directory.
func TestSupervisorKilled(t *testing.T) {
	c := world(t, listens+"exec sleep 60")
	// CRIU's arguments are those of the process; the stand-in keeps them.
	c.CRIU = filepath.Join(c.Work, "criu")
	if err := os.WriteFile(c.CRIU, []byte("#!/bin/sh\n"+listens+until), 0o700); err != nil {
		t.Fatal(err)
	}
	s := start(t, c)
	if err := unix.PidfdSendSignal(s.pidfd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := wait(t, s); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v", err)
	}
	if !serves(s.PID(), c.Work) {
		t.Fatal("CRIU ended with its supervisor: whoever waits for memory would have seen zeros")
	}
	if err := Kill(t.Context(), c.Container, c.Work); err != nil {
		t.Fatal(err)
	}
	if serves(s.PID(), c.Work) {
		t.Error("CRIU is still there")
	}
}

func TestLockIsOne(t *testing.T) {
	c := world(t, listens+"exec sleep 60")
	start(t, c)
	cmd := exec.CommandContext(t.Context(), c.Program, "-container", c.Container, "-criu", c.CRIU, "-images", c.Images,
		"-work", c.Work)
	if err := cmd.Run(); err == nil {
		t.Error("a second supervisor for the same work directory")
	}
	if _, err := Find(c.Work); err != nil {
		t.Errorf("the first is gone: %v", err)
	}
}

func TestOutcomeThatIsNone(t *testing.T) {
	work := t.TempDir()
	if _, err := Outcome(work); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(filepath.Join(work, resultFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Outcome(work); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v", err)
	}
}

// A disk that breaks while memory arrives costs nothing: what became of the server is known, and it can be found and
// stopped.
func TestDiskThatBreaks(t *testing.T) {
	for _, what := range []string{"full", "read-only"} {
		t.Run(what, func(t *testing.T) {
			c := world(t, listens+until+"exit 0")
			if err := unix.Mkfifo(filepath.Join(c.Images, "fifo"), 0o600); err != nil {
				t.Fatal(err)
			}
			c.Work = t.TempDir()
			if err := unix.Mount("test", c.Work, "tmpfs", 0, "size=64k"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(c.Work, unix.MNT_DETACH) })
			s := start(t, c)
			switch what {
			case "full":
				err := os.WriteFile(filepath.Join(c.Work, "file"), make([]byte, 1<<20), 0o600)
				if !errors.Is(err, unix.ENOSPC) {
					t.Fatalf("the disk is not full: %v", err)
				}
				if err := os.WriteFile(filepath.Join(c.Images, "go"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if r, err := wait(t, s); err != nil || !r.Drained {
					t.Errorf("%+v, %v", r, err)
				}
			case "read-only":
				err := errors.Join(unix.Mount(c.Work, c.Work, "", unix.MS_BIND, ""),
					unix.Mount("", c.Work, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = unix.Unmount(c.Work, unix.MNT_DETACH) })
				if err := Stop(t.Context(), c.Work); err != nil {
					t.Error(err)
				}
				if r, err := wait(t, s); err != nil || r.Lost == "" {
					t.Errorf("%+v, %v", r, err)
				}
			}
		})
	}
}
