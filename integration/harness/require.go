package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

const (
	modulePath = "github.com/cri-restore/cri-restore"

	// envBin overrides the folder with containerd, the shim, ctr, crictl and runc.
	envBin = "CRI_RESTORE_BIN"
	// envPrefix is where contrib/deps.sh unpacks a CRIU of its own, see contrib/env.sh.
	envPrefix = "CRI_RESTORE_PREFIX"
	// envCNI is CNI's own name for the folder of its plugins.
	envCNI = "CNI_PATH"
	// envKeep keeps the folder of every node, log and state included, after the test.
	envKeep = "KEEP"
)

// Tools are the programs that a node runs. All paths are absolute.
type Tools struct {
	// Bin is the folder with containerd, containerd-shim-runc-v2, ctr, crictl and runc.
	Bin string
	// CRIU is the CRIU binary that runc finds.
	CRIU string
	// CNI is the folder with the CNI plugins bridge, host-local and loopback.
	CNI string
	// Portmap says whether the folder has the portmap plugin too.
	Portmap bool
}

// Path returns the PATH of a node: our binaries, then CRIU, then the caller's.
func (tl *Tools) Path() string {
	return tl.Bin + ":" + filepath.Dir(tl.CRIU) + ":" + os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin"
}

var findTools = sync.OnceValues(func() (*Tools, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the integration tests start containers and need root")
	}
	if err := checkDriver(); err != nil {
		return nil, err
	}
	repo, err := Repo()
	if err != nil {
		return nil, err
	}
	tl := &Tools{Bin: os.Getenv(envBin)}
	if tl.Bin == "" {
		tl.Bin = filepath.Join(repo, "bin")
	}
	if tl.Bin, err = filepath.Abs(tl.Bin); err != nil {
		return nil, err
	}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "crictl", "runc"} {
		if err := executable(filepath.Join(tl.Bin, name)); err != nil {
			return nil, fmt.Errorf("%w: run make build", err)
		}
	}
	if tl.CRIU, err = findCRIU(); err != nil {
		return nil, fmt.Errorf("%w: run make deps", err)
	}
	if tl.CRIU, err = readingLimits(tl.Bin, tl.CRIU); err != nil {
		return nil, err
	}
	if tl.CNI, err = findCNI(); err != nil {
		return nil, fmt.Errorf("%w: run make deps", err)
	}
	tl.Portmap = executable(filepath.Join(tl.CNI, "portmap")) == nil
	return tl, nil
})

// Find is Require for callers that are no test.
func Find() (*Tools, error) { return findTools() }

// Require returns the programs that the tests need. It fails the test, and never
// skips it, when one is missing: a skipped test would hide that nothing was tested.
func Require(t testing.TB) *Tools {
	t.Helper()
	tl, err := findTools()
	if err != nil {
		t.Fatalf("harness: %v", err)
	}
	return tl
}

// Repo returns the top folder of the repository: the first folder above the
// working directory (of a Go test: its package) with our go.mod.
func Repo() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.Contains(data, []byte("module "+modulePath+"\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod of %s above %s", modulePath, start)
		}
	}
}

func findCRIU() (string, error) {
	prefix := os.Getenv(envPrefix)
	if prefix == "" {
		prefix = "/opt/cri-restore"
	}
	path := filepath.Join(prefix, "bin", "criu")
	if executable(path) != nil {
		var err error
		if path, err = exec.LookPath("criu"); err != nil {
			return "", fmt.Errorf("no criu under %s and none on PATH", prefix)
		}
	}
	// The check takes 0.1 s and tells a CRIU that cannot work here (Debian 12's
	// 3.17 for instance) from a bug of ours.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, path, "check").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s check: %w: %s", path, err, bytes.TrimSpace(out))
	}
	return path, nil
}

func findCNI() (string, error) {
	dirs := []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}
	if dir := os.Getenv(envCNI); dir != "" {
		dirs = filepath.SplitList(dir)
	}
next:
	for _, dir := range dirs {
		for _, name := range []string{"bridge", "host-local", "loopback"} {
			if executable(filepath.Join(dir, name)) != nil {
				continue next
			}
		}
		return dir, nil
	}
	return "", fmt.Errorf("no CNI plugins bridge, host-local and loopback in any of %v", dirs)
}

func executable(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is not an executable file", path)
	}
	return nil
}
