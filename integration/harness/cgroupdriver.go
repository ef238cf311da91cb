package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// envDriver chooses containerd's cgroup driver: "cgroupfs", which is the default and works everywhere, or "systemd",
// where that is PID 1. Pods then are in slices below one of the node's.
const envDriver = "CRI_RESTORE_CGROUP_DRIVER"

func systemdDriver() bool { return os.Getenv(envDriver) == "systemd" }

// checkDriver says what is wrong with the choice.
func checkDriver() error {
	switch driver := os.Getenv(envDriver); driver {
	case "", "cgroupfs":
		return nil
	case "systemd":
		if _, err := os.Stat("/run/systemd/system"); err != nil {
			return fmt.Errorf("%s=systemd, but systemd does not run here: %w", envDriver, err)
		}
		return nil
	default:
		return fmt.Errorf("%s=%q: must be cgroupfs or systemd", envDriver, driver)
	}
}

// sliceOf is the name of a node's slice, without ".slice". A "-" in it would be a slice above.
func sliceOf(id string) string { return strings.ReplaceAll(id, "-", "_") }

// cgroupOf is the cgroup of a node, below each controller's mount.
func cgroupOf(id string) string {
	if systemdDriver() {
		return "/" + sliceOf(id) + ".slice"
	}
	return "/cri-restore-" + id
}

// childOf is a cgroup for pods, relative to the node's.
func childOf(id, child string) string {
	child = filepath.Clean(child)
	if !systemdDriver() {
		return child
	}
	return sliceOf(id) + "-" + strings.NewReplacer("-", "_", "/", "_").Replace(child) + ".slice"
}

// ContainerCgroup is the cgroup, below each controller's mount, of a container whose pod was made with
// PodCgroup(child) (containerd: internal/cri/server/podsandbox/helpers.go, getCgroupsPath).
func (n *Node) ContainerCgroup(child, container string) string {
	dir := filepath.Join(cgroupOf(n.id), childOf(n.id, child))
	if systemdDriver() {
		return filepath.Join(dir, "cri-containerd-"+container+".scope")
	}
	return filepath.Join(dir, container)
}

// stopSlice ends the units of a node: systemd made them, and would otherwise keep them without their cgroups.
func stopSlice(id string) error {
	if !systemdDriver() {
		return nil
	}
	if out, err := exec.Command("systemctl", "stop", sliceOf(id)+".slice").CombinedOutput(); err != nil {
		return fmt.Errorf("slice of node %s: %w: %s", id, err, out)
	}
	return nil
}
