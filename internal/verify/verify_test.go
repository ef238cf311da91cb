package verify

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// podSpec is what containerd's CRI plugin makes for an ordinary pod.
func podSpec() *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Args: []string{"sh"}},
		Root:    &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc"},
			{Destination: "/etc/hosts", Type: "bind", Options: []string{"rbind", "rprivate", "rw"}},
			{Destination: "/dev/shm", Type: "bind"},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace},
			{Type: specs.IPCNamespace, Path: "/proc/1/ns/ipc"},
			{Type: specs.UTSNamespace, Path: "/proc/1/ns/uts"},
			{Type: specs.MountNamespace},
			{Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"},
		}},
	}
}

func of(spec *specs.Spec, stdio ...string) *checkpoint.Metadata {
	return &checkpoint.Metadata{Name: "counter_pod_default_uid_0", Spec: spec, Stdio: stdio}
}

func in(s *specs.Spec, kind specs.LinuxNamespaceType, m mode) *specs.Spec {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	switch m {
	case private:
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
	case joined:
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: "/proc/7/ns/x"})
	}
	return s
}

func TestNamespaces(t *testing.T) {
	modes := []mode{host, private, joined}
	for kind, remedy := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: "hostNetwork",
		specs.PIDNamespace:     "shareProcessNamespace",
		specs.IPCNamespace:     "hostIPC",
		specs.UTSNamespace:     "hostNetwork",
		specs.CgroupNamespace:  "cgroup version",
		specs.MountNamespace:   "needs a mount namespace",
	} {
		for _, was := range modes {
			for _, is := range modes {
				t.Run(fmt.Sprintf("%s/%s/%s", kind, was, is), func(t *testing.T) {
					err := Compare(of(in(podSpec(), kind, was)), in(podSpec(), kind, is), false)
					// CRIU joins these.
					joins := was == private && is == joined && (kind == specs.IPCNamespace || kind == specs.UTSNamespace)
					if was == is || joins {
						if err != nil {
							t.Errorf("refused: %v", err)
						}
						return
					}
					wantRefused(t, err, "the "+string(kind)+" namespace", "was "+string(was), "now be "+string(is), remedy)
				})
			}
		}
	}
}

func TestUserNamespaces(t *testing.T) {
	for _, m := range []mode{private, joined} {
		wantRefused(t, Compare(of(in(podSpec(), specs.UserNamespace, m)), podSpec(), false), "the checkpoint uses a user namespace", "hostUsers: true")
		wantRefused(t, Compare(of(podSpec()), in(podSpec(), specs.UserNamespace, m), false), "the pod uses a user namespace", "hostUsers: true")
		// Not even the same on both sides.
		wantRefused(t, Compare(of(in(podSpec(), specs.UserNamespace, m)), in(podSpec(), specs.UserNamespace, m), false), "hostUsers: true")
	}
}

func TestStdio(t *testing.T) {
	pipe, null, tty := []string{"pipe:[11]", "pipe:[12]", "pipe:[13]"}, []string{"/dev/null", "pipe:[12]", "pipe:[13]"}, []string{"/dev/pts/0"}
	for name, c := range map[string]struct {
		stdio          []string
		was, is, stdin bool
		says           string // "" is accepted
	}{
		"plain":                              {null, false, false, false, ""},
		"nothing recorded":                   {nil, false, false, false, ""},
		"stdin":                              {pipe, false, false, true, ""},
		"terminal":                           {tty, true, true, false, ""},
		"terminal with stdin":                {tty, true, true, true, ""},
		"had stdin, gets none":               {pipe, false, false, false, "stdin: true"},
		"had none, gets stdin":               {null, false, false, true, "stdin: false"},
		"nothing recorded, gets stdin":       {nil, false, false, true, "stdin: false"},
		"had a terminal, gets none":          {tty, true, false, false, "tty: true"},
		"had a terminal, gets stdin instead": {tty, true, false, true, "tty: true"},
		"had none, gets a terminal":          {null, false, true, false, "tty: false"},
		"had stdin, gets a terminal":         {pipe, false, true, true, "tty: false"},
	} {
		t.Run(name, func(t *testing.T) {
			was, is := podSpec(), podSpec()
			was.Process.Terminal, is.Process.Terminal = c.was, c.is
			err := Compare(of(was, c.stdio...), is, c.stdin)
			if c.says == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			wantRefused(t, err, c.says)
		})
	}
}

func TestBindMounts(t *testing.T) {
	bind := func(dst string) specs.Mount { return specs.Mount{Destination: dst, Type: "bind"} }
	for name, c := range map[string]struct {
		was, is []specs.Mount
		says    []string
	}{
		"same":                     {[]specs.Mount{bind("/data")}, []specs.Mount{bind("/data")}, nil},
		"written otherwise":        {[]specs.Mount{bind("/data/")}, []specs.Mount{bind("//data")}, nil},
		"another source":           {[]specs.Mount{{Destination: "/data", Source: "/a", Type: "bind"}}, []specs.Mount{{Destination: "/data", Source: "/b", Type: "bind"}}, nil},
		"by option":                {[]specs.Mount{{Destination: "/data", Options: []string{"rbind"}}}, []specs.Mount{{Destination: "/data", Options: []string{"bind"}}}, nil},
		"other types do not count": {[]specs.Mount{{Destination: "/run", Type: "tmpfs"}}, []specs.Mount{{Destination: "/sys", Type: "sysfs"}}, nil},
		"missing in the pod":       {[]specs.Mount{bind("/data")}, nil, []string{`the checkpoint has a volume at "/data"`, "the pod mounts none"}},
		"only in the pod":          {nil, []specs.Mount{bind("/data")}, nil},
		"a bind became a tmpfs":    {[]specs.Mount{bind("/data")}, []specs.Mount{{Destination: "/data", Type: "tmpfs"}}, []string{`"/data"`}},
		"both, all named": {[]specs.Mount{bind("/b"), bind("/a")}, []specs.Mount{bind("/c")},
			[]string{`has a volume at "/a"`, `has a volume at "/b"`}},
	} {
		t.Run(name, func(t *testing.T) {
			was, is := podSpec(), podSpec()
			was.Mounts, is.Mounts = append(was.Mounts, c.was...), append(is.Mounts, c.is...)
			err := Compare(of(was), is, false)
			if c.says == nil {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			wantRefused(t, err, c.says...)
		})
	}
}

// The text of a checkpoint ends up in events and logs.
func TestErrorIsBoundedAndPrintable(t *testing.T) {
	was := podSpec()
	for i := range 1000 {
		was.Mounts = append(was.Mounts, specs.Mount{Destination: fmt.Sprintf("/%d/\n\x1b[31m%s", i, strings.Repeat("x", 4096)), Type: "bind"})
	}
	err := Compare(of(was), podSpec(), false)
	wantRefused(t, err, "992 more")
	if n := len(err.Error()); n > 8<<10 {
		t.Errorf("error of %d bytes", n)
	}
	if strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("control characters in %q", err)
	}
}

func TestNotLinux(t *testing.T) {
	none := podSpec()
	none.Linux = nil
	wantRefused(t, Compare(of(nil), podSpec(), false), "not a Linux container")
	wantRefused(t, Compare(of(none), podSpec(), false), "not a Linux container")
	wantRefused(t, Compare(of(podSpec()), none, false), "not a Linux container")
}

func TestAllDifferencesInOneLine(t *testing.T) {
	was := in(podSpec(), specs.NetworkNamespace, host)
	was.Process.Terminal = true
	was.Mounts = append(was.Mounts, specs.Mount{Destination: "/data", Type: "bind"})
	wantRefused(t, Compare(of(was), podSpec(), false), "hostNetwork", "tty: true", `"/data"`, "; ")
}

func wantRefused(t *testing.T, err error, says ...string) {
	t.Helper()
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v, want failed precondition", err)
		return
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
	for _, s := range append(says, "counter_pod_default_uid_0") {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error does not say %q: %v", s, err)
		}
	}
}
