package restore

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The cgroup namespace is the spec's word: CRIU is told to make one only where there is one.
func TestCgroupOptions(t *testing.T) {
	w := newWorld(t)
	ordinary := unifiedMount
	t.Cleanup(func() { unifiedMount = ordinary })
	mount := t.TempDir()
	unifiedMount = func() (string, error) { return mount, nil }
	private := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace},
		{Type: specs.CgroupNamespace}}}}
	host := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}}}

	r := &Record{ID: NewID()}
	check(t, w.store.Dirs.Make(r.ID))
	for range 2 { // a record may be written again
		_, err := w.store.WriteConfig(r, private)
		check(t, err)
		yard := filepath.Join(w.store.Dirs.Root, r.ID, "cgroups")
		if got, err := os.ReadFile(w.store.Dirs.Config(r.ID)); err != nil ||
			string(got) != "manage-cgroups=none\ncgroup-yard="+yard+"\nfile-locks\n" {
			t.Errorf("%q, %v", got, err)
		}
		// Where CRIU would otherwise mount (criu/cgroup.c, prepare_cgroup_sfd).
		if got, err := os.Readlink(filepath.Join(yard, "unified")); err != nil || got != mount {
			t.Errorf("CRIU sees %q, %v, want the node's mount %q", got, err, mount)
		}
	}
	write(t, mount, map[string]string{"cgroup.procs": ""})
	check(t, w.store.Dirs.Remove(r.ID))
	if _, err := os.Stat(filepath.Join(mount, "cgroup.procs")); err != nil {
		t.Errorf("the node's mount was removed with the directory: %v", err)
	}

	r = &Record{ID: NewID()}
	check(t, w.store.Dirs.Make(r.ID))
	_, err := w.store.WriteConfig(r, host)
	check(t, err)
	if got, err := os.ReadFile(w.store.Dirs.Config(r.ID)); err != nil ||
		string(got) != "manage-cgroups=ignore\nfile-locks\n" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := os.Lstat(w.store.Dirs.Cgroups(r.ID)); !os.IsNotExist(err) {
		t.Errorf("a container without a cgroup namespace has %s: %v", w.store.Dirs.Cgroups(r.ID), err)
	}

	unifiedMount = func() (string, error) { return "", errdefs.ErrFailedPrecondition.WithMessage("no mount of it") }
	_, err = w.store.WriteConfig(r, private)
	wantError(t, err, errdefs.IsFailedPrecondition, "no mount of it")
}

// TestUnifiedMount asks the machine: every kernel has the hierarchy, where it is mounted.
func TestUnifiedMount(t *testing.T) {
	mount, err := unifiedMount()
	if errdefs.IsFailedPrecondition(err) {
		return // a machine with cgroup v1 only, of which no container has a cgroup namespace
	}
	check(t, err)
	if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err != nil {
		t.Errorf("%s is no cgroup: %v", mount, err)
	}
}
