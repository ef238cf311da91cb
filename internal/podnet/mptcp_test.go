package podnet

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/namespace"
)

// newNetwork makes a network namespace and returns its path.
func newNetwork(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with its goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

func readMultipath(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(multipath)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func TestTurnOffMultipath(t *testing.T) {
	nodes := readMultipath(t)
	path := newNetwork(t)
	for range 2 { // again does nothing
		if err := TurnOffMultipath(path); err != nil {
			t.Fatal(err)
		}
		err := namespace.Within(path, unix.CLONE_NEWNET, func() error {
			if got := readMultipath(t); got != "0" {
				t.Errorf("in the namespace: %s", got)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := readMultipath(t); got != nodes {
			t.Errorf("on the node: got %s, want %s as before", got, nodes)
		}
	}
	if err := TurnOffMultipath(path + "-none"); err == nil || !strings.Contains(err.Error(), path+"-none") {
		t.Errorf("a namespace that is not there: %v", err)
	}
}
