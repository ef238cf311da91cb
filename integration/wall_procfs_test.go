package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// otherProc mounts the procfs of a PID namespace in which process 1 has a secret in its environment, and nothing of a
// container in it. It is the node's procfs, as far as a pod that has it as a volume can tell.
func otherProc(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("/bin/sh", "-c", `mount -t proc proc "$0" && exec env -i SECRET=of-the-node sleep 1000000`, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		content, err := os.ReadFile(filepath.Join(dir, "1", "environ"))
		if err == nil && string(content) == "SECRET=of-the-node\x00" {
			return dir
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("no process with a secret")
		}
	}
}

// TestWallProcfs: a pod with the node's procfs as a volume, and a file open that shows more to root without the pod's
// limits than to the pod.
func TestWallProcfs(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	mount := harness.Mount(otherProc(t), "/hostproc", true)
	k := w.checkpoint(t, harness.Busybox, mount, harness.Shell(`exec 3</hostproc/1/stat 4</hostproc/uptime
		trap 'read x <&3; echo "read $x"' USR1; trap 'read x <&4; echo "read ${x:+a time}"' USR2; `+counting))
	named := func(name string, perm uint32) taken {
		return k.with(editImages(t, k.archive, func(e *imageEditor) {
			editNamed(e, "/hostproc/1/stat", func(f *fdinfo.FileEntry) {
				f.Reg.Name, f.Reg.Mode = &name, proto.Uint32(unix.S_IFREG|perm)
			})
		}))
	}
	pod, refused, seen := always(mount), refusedWith("/hostproc/1/"), refusedAtStart("/hostproc/1/", "of no process")
	w.all(t,
		attack("environment", named("/hostproc/1/environ", 0o400), pod, refused).
			does(signalled("SECRET=of-the-node")).beyond(seen),
		attack("auxiliary vector", named("/hostproc/1/auxv", 0o400), pod, refused).beyond(seen),
		twin("", named("/hostproc/loadavg", 0o444), pod).does(func(t *testing.T, c *harness.Container) {
			if err := unix.Kill(c.Pid(), unix.SIGUSR2); err != nil {
				t.Fatal(err)
			}
			c.WaitLine("read a time")
		}),
	)
}
