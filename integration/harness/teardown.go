package harness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// teardown ends a node: it compares it with the baseline, and leaves nothing of it on
// the machine whatever the comparison says.
func (n *Node) teardown() {
	n.t.Helper()
	if n.baseline != nil {
		n.compare()
	}
	if err := n.end(syscall.SIGTERM); err != nil {
		n.t.Errorf("harness: %v", err)
	}
	n.checkLog()
	if n.t.Failed() && n.daemon != nil {
		n.t.Logf("harness: end of %s (KEEP=1 keeps the file):\n%s", n.logPath(), n.tail())
	}
	if n.conn != nil {
		_ = n.conn.Close()
	}
	if err := reap(n.dir, n.id); err != nil {
		n.t.Errorf("harness: %v", err)
	}
	if n.network != nil {
		_ = n.network.lock.Close()
	}
	if n.owner != nil {
		_ = n.owner.Close()
	}
	if os.Getenv(envKeep) != "" {
		_ = os.Remove(n.path("owner")) // no sweep takes it
		n.t.Logf("harness: kept %s", n.dir)
		return
	}
	if err := removeTree(n.dir); err != nil {
		n.t.Errorf("harness: %v", err)
	}
}

// compare removes what the test was entitled to leave (pods, containers, images) and
// fails it for what is still there.
func (n *Node) compare() {
	n.t.Helper()
	if !n.running() {
		if !n.daemon.wanted.Load() {
			n.t.Errorf("harness: containerd ended by itself: %s", n.daemon.cmd.ProcessState)
		}
		// The inventory needs containerd, and a restart must find everything again.
		if err := n.TryStart(); err != nil {
			n.t.Errorf("harness: start containerd for the clean-up: %v", err)
			return
		}
	}
	if err := errors.Join(n.removeAllPods(), n.removeImagesExcept(n.baseline)); err != nil {
		n.t.Errorf("harness: clean up through CRI: %v", err)
	}
	if leaks := n.leaks(n.baseline); len(leaks) > 0 {
		n.t.Errorf("harness: the test leaks %d:\n  %s", len(leaks), strings.Join(leaks, "\n  "))
	}
}

// checkLog fails the test when containerd panicked or a -race build saw a race.
func (n *Node) checkLog() {
	n.t.Helper()
	data, err := os.ReadFile(n.logPath())
	if err != nil {
		return // never started
	}
	for _, sign := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: ", "\ngoroutine 1 ["} {
		if i := strings.Index(string(data), sign); i >= 0 {
			n.t.Errorf("harness: containerd's log has %q:\n%s", sign, data[i:min(len(data), i+4096)])
		}
	}
}

// reap ends all processes of a node, detaches all its mounts and removes its cgroups
// and its bridge. It knows nothing but the node's folder and ID, so that it also works
// on what a killed test process left.
func reap(dir, id string) error {
	return errors.Join(
		killAll(dir, id),
		unmountAll(dir),
		stopSlice(id),
		removeCgroups(id),
		removeBridge(id),
	)
}

func killAll(dir, id string) error {
	var procs []process
	var err error
	gone := settle(context.Background(), func() bool {
		thaw(id) // a frozen process does not die
		if procs, err = processesOf(id, dir); err != nil {
			return true
		}
		for _, p := range procs {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		return len(procs) == 0
	})
	if err == nil && !gone {
		err = fmt.Errorf("node %s: processes do not die: %v", id, procs)
	}
	return err
}

// thaw ends what an interrupted checkpoint may have left frozen, on cgroup v1 and v2.
func thaw(id string) {
	cgroups, _ := cgroupsOf(id)
	for _, cg := range cgroups {
		for file, value := range map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"} {
			if f, err := os.OpenFile(filepath.Join(cg.path, file), os.O_WRONLY, 0); err == nil {
				_, _ = f.WriteString(value)
				_ = f.Close()
			}
		}
	}
}

// unmountAll detaches everything that is mounted below dir or made from it, last mount first.
func unmountAll(dir string) error {
	mounts, err := mountsOf(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		// A detached parent takes its children with it.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}

// removeCgroups removes a node's cgroups, children first. A cgroup whose last process
// has just died is busy for a moment.
func removeCgroups(id string) error {
	var err error
	settle(context.Background(), func() bool {
		err = tryRemoveCgroups(id)
		return err == nil
	})
	return err
}

func tryRemoveCgroups(id string) error {
	cgroups, err := cgroupsOf(id)
	if err != nil {
		return err
	}
	paths := make([]string, 0, len(cgroups))
	for _, cg := range cgroups {
		paths = append(paths, cg.path)
	}
	slices.Reverse(paths)
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		paths = append(paths, filepath.Join(mount, cgroupOf(id)))
	}
	var errs []error
	for _, path := range paths {
		if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, &fs.PathError{Op: "remove cgroup", Path: path, Err: err})
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a node's folder, but not while anything is mounted below it: a
// recursive delete would go on into the mount.
func removeTree(dir string) error {
	mounts, err := mountsOf(dir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s stays: %s is still mounted", dir, mounts[0].Mountpoint)
	}
	return os.RemoveAll(dir)
}
