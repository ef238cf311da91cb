package verify

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// TestHostNamespaces compares where the process was, by CRIU's images, with where the pod puts it. That
// a namespace is the host's can only be seen by what its path names.
func TestHostNamespaces(t *testing.T) {
	const net, pid, ipc, uts, mnt, user = specs.NetworkNamespace, specs.PIDNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.MountNamespace, specs.UserNamespace
	// Any file that is not this process's namespace stands for one of a pod.
	other := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pod := func(change ...specs.LinuxNamespace) *specs.Spec {
		s := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: pid}, {Type: mnt}, {Type: net, Path: other}, {Type: ipc, Path: other}, {Type: uts, Path: other},
		}}}
		for _, n := range change {
			s.Linux.Namespaces = append(slices.DeleteFunc(s.Linux.Namespaces, func(o specs.LinuxNamespace) bool { return o.Type == n.Type }), n)
		}
		return s
	}
	hostNet := specs.LinuxNamespace{Type: net, Path: "/proc/self/ns/net"}
	hostPID := specs.LinuxNamespace{Type: pid, Path: "/proc/self/ns/pid"}
	for name, c := range map[string]struct {
		shared []specs.LinuxNamespaceType
		is     *specs.Spec
		says   []string // none: it fits
	}{
		"ordinary":                     {[]specs.LinuxNamespaceType{user}, pod(), nil},
		"host network":                 {[]specs.LinuxNamespaceType{user, net, uts}, pod(hostNet), nil},
		"host network into a pod's":    {[]specs.LinuxNamespaceType{user, net, uts}, pod(), []string{"host's network namespace", "hostNetwork"}},
		"a pod's into host network":    {[]specs.LinuxNamespaceType{user}, pod(hostNet), nil},
		"host PID":                     {[]specs.LinuxNamespaceType{user, pid}, pod(hostPID), nil},
		"host PID into private":        {[]specs.LinuxNamespaceType{user, pid}, pod(), []string{"in the host's pid namespace", "hostPID"}},
		"host PID into shared":         {[]specs.LinuxNamespaceType{user, pid}, pod(specs.LinuxNamespace{Type: pid, Path: other}), []string{"in the host's pid namespace"}},
		"private PID into host PID":    {[]specs.LinuxNamespaceType{user}, pod(hostPID), []string{"not in the host's pid namespace"}},
		"host IPC into a pod's":        {[]specs.LinuxNamespaceType{user, ipc}, pod(), nil}, // CRIU joins
		"host IPC into one of its own": {[]specs.LinuxNamespaceType{user, ipc}, pod(specs.LinuxNamespace{Type: ipc}), []string{"host's ipc namespace"}},
		"the host's files":             {[]specs.LinuxNamespaceType{user, mnt}, pod(), []string{"host's mount namespace"}},
		"user namespace":               {nil, pod(), []string{"user namespace", "hostUsers: true"}},
		"two":                          {[]specs.LinuxNamespaceType{net}, pod(), []string{"network namespace", "user namespace"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := hostNamespaces(opened(t, criutest.Images(criutest.Processes{1: c.shared})), c.is)
			if len(c.says) == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errdefs.IsFailedPrecondition(err) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("error %v, want failed precondition in one line", err)
			}
			for _, word := range c.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("the error does not say %q: %v", word, err)
				}
			}
		})
	}
	t.Run("no images", func(t *testing.T) {
		if err := hostNamespaces(opened(t, nil), pod()); !errdefs.IsInvalidArgument(err) {
			t.Errorf("error %v, want invalid argument", err)
		}
	})
	t.Run("no such namespace", func(t *testing.T) {
		err := hostNamespaces(opened(t, criutest.Images(criutest.Processes{1: {user}})), pod(specs.LinuxNamespace{Type: net, Path: other + "x"}))
		if err == nil || !strings.Contains(err.Error(), other+"x") {
			t.Errorf("error %v", err)
		}
	})
}

// opened are images of these files.
func opened(t *testing.T, files map[string]string) *criu.Images {
	t.Helper()
	images, err := criu.OpenImages(write(t, files))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = images.Close() })
	return images
}

func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
