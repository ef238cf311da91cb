package guard

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const containerID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// world is a process in a mount namespace of its own, as the first one of a container, and a restore's directory.
type world struct {
	t     *testing.T
	dir   string // of the restore
	root  string // the container's root, before it is the namespace's
	pid   int
	facts Facts
	paths Paths
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "guard"), root: t.TempDir(), facts: Facts{Container: containerID}}
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	check(t, err)
	answer, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	// When it answers it has found its libraries, and needs no file any more.
	_, err = in.Write([]byte("x"))
	if err == nil {
		_, err = answer.Read(make([]byte, 1))
	}
	check(t, err)
	w.pid = cmd.Process.Pid
	w.inside(func() error { return unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") })
	return w
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inside calls f in the process's mount namespace.
func (w *world) inside(f func() error) {
	w.t.Helper()
	check(w.t, inMounts(w.pid, f))
}

// mount makes a directory in the container's root, if need be, and mounts a new file system there with these flags besides.
func (w *world) mount(p, fstype string, flags uintptr) {
	w.t.Helper()
	w.inside(func() error {
		at := filepath.Join(w.root, p)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fstype, at, fstype, 0, ""); err != nil {
			return err
		}
		if flags == 0 {
			return nil
		}
		return unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
	})
}

// enter makes the container's root that of the namespace.
func (w *world) enter() {
	w.t.Helper()
	w.inside(func() error {
		if err := unix.Chdir(w.root); err != nil {
			return err
		}
		if err := unix.PivotRoot(".", "."); err != nil {
			return err
		}
		return unix.Unmount(".", unix.MNT_DETACH)
	})
}

// run runs the guard as CRIU does.
func (w *world) run(stage string) error {
	w.t.Helper()
	script, err := Arm(w.dir, "/bin/true", w.facts, w.paths)
	check(w.t, err)
	return Run(script, environment(map[string]string{"CRTOOLS_SCRIPT_ACTION": stage, "CRTOOLS_INIT_PID": strconv.Itoa(w.pid)}))
}

func environment(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// flags returns the flags of the mounts by their mount points, which begin with the prefix that is cut off.
func (w *world) flags(prefix string) map[string]string {
	w.t.Helper()
	mounts, err := mountsOf(w.pid)
	check(w.t, err)
	out := map[string]string{}
	for _, m := range mounts {
		if rel, err := filepath.Rel(prefix, m.Mountpoint); err == nil && filepath.IsLocal(rel) {
			out["/"+rel] = m.Options
		}
	}
	return out
}
