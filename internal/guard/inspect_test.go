package guard

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/grant"
)

// granted are facts of a container that is granted what this test's processes have.
func (w *world) granted() *Facts {
	w.t.Helper()
	nodes, err := ownNamespaces("self")
	check(w.t, err)
	label, _, err := labelOf("/proc/self")
	check(w.t, err)
	f := &Facts{Container: containerID, Namespaces: nodes}
	f.Grant.Process = grant.Process{AnyUID: true, AnyGID: true, Sets: [5]uint64{math.MaxUint64, math.MaxUint64, math.MaxUint64, math.MaxUint64, math.MaxUint64}, Label: label}
	f.Grant.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	return f
}

// look inspects the world's process and returns what was found.
func (w *world) look(f *Facts) *Verdict {
	w.t.Helper()
	check(w.t, os.MkdirAll(w.dir, 0o700))
	cgroup, err := readProc(w.pid, "cgroup")
	check(w.t, err)
	check(w.t, os.WriteFile(filepath.Join(w.dir, cgroupFile), cgroup, 0o600))
	g := &guard{dir: w.dir, facts: f, init: w.pid}
	processes, err := descendants(w.pid)
	check(w.t, err)
	check(w.t, g.look(processes))
	return &g.verdict
}

// about returns the findings of a check.
func about(v *Verdict, check string) (out []string) {
	for _, f := range v.Findings {
		if f.Check == check {
			out = append(out, f.String())
		}
	}
	return out
}

// A process is compared with what its pod was granted, by everything that the kernel says of it.
func TestLookAtProcesses(t *testing.T) {
	w := newWorld(t)
	w.mount("", "tmpfs", 0)
	w.enter() // with few mounts there are few findings
	mine, err := readStatus("/proc/self/status")
	check(t, err)
	for name, c := range map[string]struct {
		change func(*grant.Process)
		check  string
		says   []string
	}{
		"user":         {func(p *grant.Process) { p.AnyUID, p.UIDs = false, []uint32{1000} }, "credentials", []string{"euid", "found 0"}},
		"group":        {func(p *grant.Process) { p.AnyGID, p.GIDs = false, []uint32{1000} }, "credentials", []string{"egid", "found 0"}},
		"capabilities": {func(p *grant.Process) { p.Sets[3] = 1 }, "credentials", []string{"CapBnd", "0000000000000001"}},
		"no_new_privs": {func(p *grant.Process) { p.NoNewPrivs = true }, "credentials", []string{"NoNewPrivs"}},
		"seccomp":      {func(p *grant.Process) { p.Seccomp = true }, "seccomp", []string{"mode"}},
		"label":        {func(p *grant.Process) { p.Label = "mine" }, "credentials", []string{"LSM label", "allowed mine"}},
		"limits":       {func(p *grant.Process) { p.Hard = make([]uint64, 16) }, "limits", []string{"hard limit"}},
		"OOM score":    {func(p *grant.Process) { p.OOMScore = new(1001) }, "limits", []string{"oom_score_adj", "allowed 1001"}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "no_new_privs" && mine.noNewPrivs || name == "seccomp" && mine.filters > 0 {
				return // this test has it itself
			}
			f := w.granted()
			c.change(&f.Grant.Process)
			found := strings.Join(about(w.look(f), c.check), "; ")
			for _, word := range c.says {
				if !strings.Contains(found, word) {
					t.Errorf("found %q, want %q", found, word)
				}
			}
		})
	}
	v := w.look(w.granted())
	for _, c := range []string{"credentials", "seccomp", "limits", "cgroups"} {
		if found := about(v, c); len(found) > 0 {
			t.Errorf("of an honest process: %q", found)
		}
	}
}

// Files are those of the container's mounts, and of those of the kernel in which pipes and the like are.
func TestLookAtFiles(t *testing.T) {
	w := newWorld(t)
	w.mount("", "tmpfs", 0)
	inside := w.look(w.granted())
	if found := about(inside, "files"); len(found) > 0 {
		t.Errorf("files of its mount namespace, and pipes: %q", found)
	}
	w.enter() // and what it has open stays outside
	v := w.look(w.granted())
	found := strings.Join(about(v, "files"), "; ")
	for _, word := range []string{"cwd", "exe", "in mount"} {
		if !strings.Contains(found, word) {
			t.Errorf("found %q, want %q", found, word)
		}
	}
	if err := v.Found(); !errdefs.IsPermissionDenied(err) || v.Total < 3 {
		t.Errorf("got %v", err)
	}
}

// Each mount is there for something, with the flags that it wants.
func TestLookAtMounts(t *testing.T) {
	w, outside := newWorld(t), t.TempDir()
	w.mount("", "tmpfs", 0)
	w.mount("ro", "tmpfs", unix.MS_RDONLY|unix.MS_NODEV)
	w.mount("proc", "proc", unix.MS_NOSUID)
	w.mount("shared", "tmpfs", 0)
	w.inside(func() error {
		source := filepath.Join(w.root, "bound")
		return errors.Join(os.Mkdir(source, 0o755), unix.Mount(outside, source, "", unix.MS_BIND, ""),
			os.Symlink("/ro", filepath.Join(w.root, "link")), os.WriteFile(filepath.Join(w.root, "seen"), nil, 0o600),
			unix.Mount("", filepath.Join(w.root, "shared"), "", unix.MS_SHARED, ""))
	})
	w.enter()
	honest := func() *Facts {
		f := w.granted()
		f.Grant.Mounts = []grant.Mount{{Destination: "/link", Flags: unix.MS_RDONLY | unix.MS_NODEV}, {Destination: "/proc", Type: "proc"}, {Destination: "/shared", Shared: true},
			{Destination: "/none"}, {Destination: "/bound", Source: outside}}
		return f
	}
	if found := about(w.look(honest()), "mounts"); len(found) > 0 {
		t.Errorf("honest mounts: %q", found)
	}
	for name, c := range map[string]struct {
		change func(*grant.Container)
		says   string
	}{
		"unexplained":   {func(g *grant.Container) { g.Mounts = g.Mounts[1:] }, "mount /ro: mount point"},
		"writable":      {func(g *grant.Container) { g.Mounts[1].Flags = unix.MS_RDONLY }, "mount /proc: flags"},
		"another type":  {func(g *grant.Container) { g.Mounts[1].Type = "sysfs" }, "mount /proc: type: found proc, allowed sysfs"},
		"devices":       {func(g *grant.Container) { g.Mounts[1].Flags = unix.MS_NODEV }, "allowed nodev"},
		"another's":     {func(g *grant.Container) { g.Mounts[4].Source = t.TempDir() }, "mount /bound: source"},
		"of nothing":    {func(g *grant.Container) { g.Mounts[4].Source = outside + "/gone" }, "mount /bound: source"},
		"root":          {func(g *grant.Container) { g.RootReadonly = true }, "mount /: flags"},
		"shared":        {func(g *grant.Container) { g.Mounts[2].Shared = false }, "mount /shared: propagation"},
		"not masked":    {func(g *grant.Container) { g.MaskedPaths = []string{"/gone", "/seen"} }, "path /seen"},
		"not read-only": {func(g *grant.Container) { g.ReadonlyPaths = []string{"/ro", "/proc/sys"} }, "path /proc/sys"},
	} {
		t.Run(name, func(t *testing.T) {
			f := honest()
			c.change(&f.Grant)
			found := about(w.look(f), "mounts")
			if !slices.ContainsFunc(found, func(text string) bool { return strings.Contains(text, c.says) }) || len(found) != 1 {
				t.Errorf("found %q, want %q", found, c.says)
			}
		})
	}
}

// Namespaces are the spec's.
func TestLookAtNamespaces(t *testing.T) {
	w := newWorld(t)
	w.mount("", "tmpfs", 0)
	w.enter()
	for name, c := range map[string]struct {
		namespaces []specs.LinuxNamespace
		says       string
	}{
		"none of its own": {nil, "mount namespace"},
		"the node's":      {[]specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}}, "network namespace: found the node's, allowed one of its own"},
		"another's":       {[]specs.LinuxNamespace{{Type: specs.MountNamespace, Path: "/proc/self/ns/mnt"}}, "mount namespace"},
		"honest":          {[]specs.LinuxNamespace{{Type: specs.MountNamespace, Path: proc(w.pid, "ns/mnt")}, {Type: specs.IPCNamespace, Path: "/proc/self/ns/ipc"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := w.granted()
			f.Grant.Namespaces = c.namespaces
			found := strings.Join(about(w.look(f), "namespaces"), "; ")
			if (found == "") != (c.says == "") || !strings.Contains(found, c.says) {
				t.Errorf("found %q, want %q", found, c.says)
			}
		})
	}
}

// The limits are read as the kernel has them.
func TestHardLimits(t *testing.T) {
	data, err := os.ReadFile("/proc/self/limits")
	check(t, err)
	hard, err := hardLimits(data)
	check(t, err)
	if len(hard) != 16 {
		t.Fatalf("%d limits", len(hard))
	}
	for n := range hard {
		var limit unix.Rlimit
		check(t, unix.Getrlimit(n, &limit))
		if hard[n] != limit.Max {
			t.Errorf("limit %d is %d, want %d", n, hard[n], limit.Max)
		}
	}
}

func TestDescendants(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo; wait")
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	_, err = out.Read(make([]byte, 1))
	check(t, err)
	all, err := descendants(cmd.Process.Pid)
	check(t, err)
	for _, pid := range all {
		check(t, unix.Kill(pid, unix.SIGKILL))
	}
	_ = cmd.Wait()
	if len(all) != 2 || all[0] != cmd.Process.Pid {
		t.Errorf("got %v", all)
	}
}
