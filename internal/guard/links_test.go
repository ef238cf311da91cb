package guard

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/grant"
)

const closed = unix.MS_NOSYMFOLLOW | unix.MS_RDONLY

// Links are followed again in all mounts, whatever their other flags are, but in those of the pod that do not want it.
func TestRelease(t *testing.T) {
	w := newWorld(t)
	w.mount("", "tmpfs", unix.MS_NOSYMFOLLOW|unix.MS_NODEV)
	w.mount("a", "tmpfs", closed)
	w.mount("a2", "tmpfs", unix.MS_NOSYMFOLLOW)
	w.mount("real/kept", "tmpfs", closed)
	w.mount("proc", "proc", 0)
	w.inside(func() error { return os.Symlink("/real", filepath.Join(w.root, "linked")) })
	w.enter()
	w.facts.Grant.Mounts = []grant.Mount{{Destination: "/a", Flags: unix.MS_RDONLY}, {Destination: "/linked/kept", Flags: closed}}
	check(t, w.run(stageRestored))
	for p, want := range map[string]string{"/.": "rw,nodev,relatime", "/a": "ro,relatime", "/a2": "rw,relatime", "/real/kept": "ro,relatime,nosymfollow", "/proc": "rw,relatime"} {
		if got := w.flags("/")[p]; got != want {
			t.Errorf("%s has %q, want %q", p, got, want)
		}
	}
	v, err := Outcome(w.dir)
	if err != nil || !v.Released || v.Failure != "" || v.Found() != nil {
		t.Errorf("verdict %+v, %v", v, err)
	}
}

// A mount that would keep a flag, or lose one, fails the restore.
func TestReleaseFails(t *testing.T) {
	for name, destination := range map[string]string{"not there": "/none", "not mounted": "/dir"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mount("", "tmpfs", unix.MS_NOSYMFOLLOW)
			w.inside(func() error { return os.Mkdir(filepath.Join(w.root, "dir"), 0o755) })
			w.enter()
			w.facts.Grant.Mounts = []grant.Mount{{Destination: destination, Flags: unix.MS_NOSYMFOLLOW}}
			if err := w.run(stageRestored); err == nil || !strings.Contains(err.Error(), destination) {
				t.Errorf("got %v", err)
			}
			v, err := Outcome(w.dir)
			check(t, err)
			if err := v.Failed(); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), destination) {
				t.Errorf("verdict %v", err)
			}
		})
	}
}

// The root file system's source gets the flags that an old CRIU does not set.
func TestHold(t *testing.T) {
	for _, readonly := range []bool{false, true} {
		w := newWorld(t)
		w.facts.Grant.RootReadonly = readonly
		if err := w.run(stageNamespaces); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("without a root file system: %v", err)
		}
		at := filepath.Join("runc", containerID, "criu-root")
		w.mount(at, "tmpfs", 0)
		w.mount("runc/another/criu-root", "tmpfs", 0)
		check(t, w.run(stageNamespaces))
		want := "rw,relatime,nosymfollow"
		if readonly {
			want = "ro,relatime,nosymfollow"
		}
		if got := w.flags(w.root); got["/"+at] != want || got["/runc/another/criu-root"] != "rw,relatime" {
			t.Errorf("read-only %t: %v, want %q", readonly, got, want)
		}
		if _, err := Outcome(w.dir); !errdefs.IsNotFound(err) {
			t.Errorf("a verdict before anything was restored: %v", err)
		}
	}
}

// Before files are opened every mount that CRIU has made has to be closed to links.
func TestHeld(t *testing.T) {
	w := newWorld(t)
	if err := w.run(stageMounted); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("nothing is mounted: %v", err)
	}
	w.root = "/tmp"
	w.mount("", "tmpfs", 0) // so that nothing is left of the rest
	const in = ".criu.mntns.AbCdEf"
	w.mount(in, "tmpfs", 0)
	w.mount(in+"/mnt-0000000001", "tmpfs", unix.MS_NOSYMFOLLOW)
	w.mount(in+"/mnt-0000000002", "proc", 0)
	check(t, w.run(stageMounted))
	w.mount(in+"/mnt-0000000003", "tmpfs", unix.MS_NOSUID)
	if err := w.run(stageMounted); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "follow links") {
		t.Errorf("a mount without the flag: %v", err)
	}
}

// At all other stages, those of a checkpoint among them, nothing is looked at.
func TestOtherStages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	for _, stage := range []string{"pre-dump", "post-dump", "network-lock", "network-unlock", "pre-restore", "post-resume", "orphan-pts-master"} {
		if err := Run(filepath.Join(dir, Program), environment(map[string]string{"CRTOOLS_SCRIPT_ACTION": stage})); err != nil {
			t.Errorf("%s: %v", stage, err)
		}
	}
	if err := Run(filepath.Join(dir, Program), environment(nil)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("started by hand: %v", err)
	}
	if err := Run(filepath.Join(dir, Program), environment(map[string]string{"CRTOOLS_SCRIPT_ACTION": stageRestored})); !errdefs.IsNotFound(err) {
		t.Errorf("without facts: %v", err)
	}
}

// Program and plugin of two builds do not work together.
func TestFactsOfAnotherVersion(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "guard")
	script, err := Arm(dir, "/bin/true", Facts{Container: containerID}, Paths{})
	check(t, err)
	check(t, write(filepath.Join(dir, factsFile), Facts{Version: factsVersion + 1}))
	err = Run(script, environment(map[string]string{"CRTOOLS_SCRIPT_ACTION": stageRestored, "CRTOOLS_INIT_PID": "1"}))
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "same build") {
		t.Errorf("got %v", err)
	}
	check(t, os.WriteFile(filepath.Join(dir, factsFile), []byte("{"), 0o600))
	if _, err := loadFacts(dir); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v", err)
	}
}

func TestSupported(t *testing.T) {
	check(t, Supported())
	if err := unsupported(unix.EINVAL); !errdefs.IsNotImplemented(err) || !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("got %v", err)
	}
}
