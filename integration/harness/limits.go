package harness

import (
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

//go:embed limits/limits.c
var limitsSource []byte

// readingLimits returns a CRIU that dumps processes of other users on this machine, too: the one given where root has
// CAP_SYS_RESOURCE, as it has on every node, and otherwise one with a library that reads limits without it. What that
// CRIU is made of lies in a folder of its own below the binaries', which outlives the tests.
func readingLimits(bin, criu string) (string, error) {
	if able, err := hasCapability(unix.CAP_SYS_RESOURCE); able || err != nil {
		return criu, err
	}
	key := sha256.Sum256(append([]byte(criu+"\n"), limitsSource...))
	dir := filepath.Join(bin, "test", fmt.Sprintf("criu-%x", key[:6]))
	wrapper := filepath.Join(dir, "criu")
	if executable(wrapper) == nil {
		return wrapper, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), "criu-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(made)
	source := filepath.Join(made, "limits.c")
	if err := os.WriteFile(source, limitsSource, 0o600); err != nil {
		return "", err
	}
	compile := exec.Command("gcc", "-shared", "-fPIC", "-O2", "-o", filepath.Join(made, "limits.so"), source, "-ldl")
	if out, err := compile.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", compile, err, out)
	}
	script := fmt.Sprintf("#!/bin/sh\nLD_PRELOAD='%s' exec '%s' \"$@\"\n", filepath.Join(dir, "limits.so"), criu)
	if err := errors.Join(os.WriteFile(filepath.Join(made, "criu"), []byte(script), 0o755),
		os.Chmod(made, 0o755)); err != nil {
		return "", err
	}
	// Another test process may have been faster; what it made is the same.
	if err := os.Rename(made, dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return "", err
	}
	return wrapper, nil
}

// hasCapability reports whether this process has a capability in effect.
func hasCapability(number int) (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("capabilities of this process: %w", err)
	}
	return data[number/32].Effective&(1<<(number%32)) != 0, nil
}
