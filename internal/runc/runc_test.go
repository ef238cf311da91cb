package runc

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestUsable(t *testing.T) {
	for text, want := range map[string]bool{
		"runc version 1.4.4\ncommit: v1.4.4-0-g1\nspec: 1.3.0\n": true, "runc version 1.4.10": true,
		"runc version 1.5.3": true, "runc version 1.6.0": true, "runc version 1.7.0-rc.1": true,
		"runc version 2.0.0": true, "runc version 1.4.4-0ubuntu1~24.04": true, "runc version 1.4.4+ds1": true,
		"runc version 1.5.3+dev": true, "runc version v1.4.5": true,
		"NVIDIA Container Runtime version 1.17.8\ncommit: x\nspec: 1.2.1\n\nrunc version 1.4.4\n": true,
		"runc version 1.4.3": false, "runc version 1.4.0-rc.92": false, "runc version 1.3.9": false,
		"runc version 1.5.2": false, "runc version 1.5.0-rc.2": false, "runc version 1.0.0-rc93": false,
		"runc version 1.6.0-rc.1": false, "runc version 1.1.5+ds1-1+deb12u1": false,
		"NVIDIA Container Runtime version 1.17.8\n\nrunc version 1.1.12\n": false,
	} {
		v, err := parseVersion([]byte(text))
		if err != nil || v.Usable() != want {
			t.Errorf("%q: %s, usable %t, error %v, want %t", text, v, v.Usable(), err, want)
		}
	}
	for _, text := range []string{"", "crun version 1.20", "runc version unknown",
		"runc version 99999999999999999999.1.1"} {
		if _, err := parseVersion([]byte(text)); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

// script makes an executable file.
func script(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file+".new", []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestBinaries(t *testing.T) {
	dir, first := t.TempDir(), t.TempDir()
	asked := filepath.Join(dir, "asked")
	good := script(t, dir, "runc", "echo asked >> "+asked+"; echo runc version 1.4.4")
	old := script(t, dir, "old", "echo runc version 1.4.3")
	other := script(t, dir, "other", "echo crun version 1.20")
	fails := script(t, dir, "fails", "exit 3")
	if err := os.Mkdir(filepath.Join(first, "runc"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := &Binaries{Path: "relative:" + first + ":" + dir}
	for _, name := range []string{"", "runc", good} {
		if file, v, err := b.Version(t.Context(), name); err != nil || file != good || v.String() != "1.4.4" {
			t.Errorf("%q: %s %s %v", name, file, v, err)
		}
	}
	if data, err := os.ReadFile(asked); err != nil || strings.Count(string(data), "asked") != 1 {
		t.Errorf("asked %q, %v, want once", data, err)
	}
	for name, says := range map[string]string{
		"old": old + " is runc 1.4.3", old: "install runc 1.4.4", other: "crun version", fails: "exit status 3",
		"absent": `no absent in PATH`, "/absent/runc": "BinaryName",
	} {
		if _, _, err := b.Version(t.Context(), name); !errdefs.IsFailedPrecondition(err) ||
			!strings.Contains(err.Error(), says) {
			t.Errorf("%q: error %v", name, err)
		}
	}
	// A runc that was exchanged is asked anew, in both directions.
	script(t, dir, "old", "echo runc version 1.5.3")
	if _, _, err := b.Version(t.Context(), old); err != nil {
		t.Errorf("error %v", err)
	}
	script(t, dir, "runc", "echo runc version 1.4.2")
	if _, _, err := b.Version(t.Context(), ""); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("error %v", err)
	}
	hangs := script(t, dir, "hangs", "exec sleep 100")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := b.Version(ctx, hangs); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
