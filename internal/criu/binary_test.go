package criu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// script writes an executable "criu" into a new directory and returns it.
func script(t *testing.T, mode os.FileMode, body string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "criu"), []byte("#!/bin/sh\n"+body), mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFind(t *testing.T) {
	good, other := script(t, 0o755, ""), script(t, 0o755, "")
	plain := script(t, 0o644, "")
	directory := t.TempDir()
	if err := os.Mkdir(filepath.Join(directory, "criu"), 0o755); err != nil {
		t.Fatal(err)
	}
	device := t.TempDir()
	if err := os.Symlink("/dev/null", filepath.Join(device, "criu")); err != nil {
		t.Fatal(err)
	}
	linked := t.TempDir()
	if err := os.Symlink(filepath.Join(good, "criu"), filepath.Join(linked, "criu")); err != nil {
		t.Fatal(err)
	}
	list := func(dirs ...string) string { return strings.Join(dirs, ":") }
	t.Setenv("PATH", other)
	t.Chdir(good)

	for path, want := range map[string]string{
		good:              good,
		list(good, other): good,
		list(other, good): other,
		list(plain, directory, device, "/nonexistent", good): good,
		list("", ".", "relative", other):                     other,
		linked:                                               linked,
		"":                                                   other,
	} {
		if got, err := Find(path); err != nil || got != filepath.Join(want, "criu") {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
	// If the shim has a PATH, the process's own does not help.
	for _, path := range []string{plain, directory, device, "/nonexistent", ".", ":"} {
		got, err := Find(path)
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "install CRIU 4.1 or newer") ||
			!strings.Contains(err.Error(), path) {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
	t.Setenv("PATH", "/nonexistent")
	if got, err := Find(""); !errdefs.IsNotFound(err) {
		t.Errorf("%q, %v", got, err)
	}
}
