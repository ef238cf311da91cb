package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// chaosCall is one call of an operation, which a fault strikes.
type chaosCall struct {
	w      *chaosWorld
	pod    *harness.Pod
	c      *harness.Container
	cancel context.CancelFunc
	done   chan struct{}
}

// strike does the harm when the moment has come. It reports whether there was anything to harm.
func (call *chaosCall) strike(t *testing.T, fault string) bool {
	t.Helper()
	n := call.w.n
	switch fault {
	case "containerd":
		n.Kill()
		return true
	case "cancel":
		call.cancel()
		return true
	case "deadline":
		return true // the context has it
	case "full", "no inodes", "read-only", "snapshotter":
		n.In(t).Disk(fault)
		return true
	case "pod":
		// As when a pod is deleted: with a grace period of none.
		_, err := n.Runtime().StopPodSandbox(n.In(t).Context(), &runtime.StopPodSandboxRequest{PodSandboxId: call.pod.ID})
		if err != nil {
			t.Logf("stop of the pod: %v", err)
		}
		return true
	case "image":
		n.In(t).RemoveImage(chaosImage)
		n.Inventory(t) // collects garbage
		return true
	case "registry":
		release := n.Registry().Hold("/v2/")
		n.Registry().Disconnect()
		time.AfterFunc(300*time.Millisecond, release)
		return true
	}
	pid := call.find(fault)
	if pid == 0 {
		return false
	}
	return unix.Kill(pid, unix.SIGKILL) == nil
}

// find looks for the victim until the operation is over.
func (call *chaosCall) find(fault string) (pid int) {
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for {
		if pid = call.victim(fault); pid != 0 {
			return pid
		}
		select {
		case <-call.done:
			return call.victim(fault) // some go on afterwards
		case <-tick.C:
		}
	}
}

func (call *chaosCall) victim(fault string) int {
	switch fault {
	case "shim":
		return argument(func(args []string) bool {
			return filepath.Base(args[0]) == "containerd-shim-runc-v2" && slices.Contains(args, call.pod.ID)
		})
	case "supervisor":
		return supervisorOf(call.c)
	case "page server":
		return serverOf(call.c)
	case "process":
		if found := inCgroupOf(call.c.ID); len(found) > 0 {
			return slices.Max(found)
		}
		return 0
	}
	return programOf(call.w.n, fault)
}

// programOf is a process of a program (runc, criu) that the node's containerd or shims have started; of CRIU it is
// the one that works for runc.
func programOf(n *harness.Node, program string) (found int) {
	marker := []byte("CRI_RESTORE_TEST_NODE=" + n.ID() + "\x00")
	processes(func(pid int, dir string) bool {
		content, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := strings.Split(string(content), "\x00")
		if filepath.Base(args[0]) != program || program == "criu" && !slices.Contains(args, "swrk") {
			return true
		}
		if environ, _ := os.ReadFile(filepath.Join(dir, "environ")); bytes.Contains(environ, marker) {
			found = pid
		}
		return found == 0
	})
	return found
}

// unthrottleAll lifts the limits of a container that was slowed down, whatever has become of it.
func unthrottleAll(t *testing.T, c *harness.Container) {
	t.Helper()
	if c != nil {
		unthrottle(t, c)
	}
}

func describe(seed uint64, round int, op *chaosOperation, fault string, at time.Duration) string {
	return fmt.Sprintf("round %d, %s, %s after %v, CHAOS_SEED=%d CHAOS_ROUND=%d", round, op.name, fault,
		at.Round(time.Millisecond), seed, round)
}
