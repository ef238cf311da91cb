package verify

import (
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// regular is a file of a path, type and mode, in a mount, opened with these flags.
func regularAt(name string, mode uint32, mount int32, flags uint32) []*fdinfo.FileEntry {
	return []*fdinfo.FileEntry{criutest.Regular(9, name, mode, func(e *regfile.RegFileEntry) { e.MntId, e.Flags = &mount, &flags })}
}

func TestRegularFiles(t *testing.T) {
	cases := map[string]filesCase{
		"a terminal's name":  {files: regularAt("/dev/null", 0o20666, criutest.DevMount, unix.O_RDWR)},
		"no mode":            {files: []*fdinfo.FileEntry{criutest.Regular(9, "/data", 0, func(e *regfile.RegFileEntry) { e.Mode = nil })}, invalid: "no mode"},
		"a mode too long":    {files: regularAt("/data", 1<<20|0o100644, criutest.RootMount, 0), invalid: "no mode"},
		"no mount":           {files: []*fdinfo.FileEntry{criutest.Regular(9, "/data", 0o100644, func(e *regfile.RegFileEntry) { e.MntId = nil })}, invalid: "in no mount"},
		"unknown mount":      {files: regularAt("/data", 0o100644, 77, 0), invalid: "in no mount"},
		"another mount":      {files: regularAt("/data", 0o100644, criutest.DevMount, 0), invalid: "not in the mount"},
		"beside a mount":     {files: regularAt("/device", 0o100644, criutest.DevMount, 0), invalid: "not in the mount"},
		"runc's own":         {files: regularAt("/extRootPIDNS", 0o100644, criutest.RootMount, 0), finds: "runc uses"},
		"runc's pipe":        {files: regularAt("/pipe:[7001]", 0o100644, criutest.RootMount, 0), finds: "runc uses"},
		"link by name":       {files: regularAt("/link", 0o120777, criutest.RootMount, unix.O_PATH|unix.O_NOFOLLOW)},
		"a block device":     {files: regularAt("/dev/vda", 0o60660, criutest.DevMount, unix.O_RDWR)}, // the cgroup says whether it may be opened
		"in a volume":        {files: regularAt("/volume/a", 0o100600, criutest.RootMount, unix.O_RDWR), spec: mounted("/volume", "bind", t.TempDir())},
		"in a kernel volume": {files: regularAt("/volume/1/root", 0o40755, criutest.RootMount, 0), spec: mounted("/volume", "bind", "/proc"), finds: "/volume/1/root"},
		"deeper":             {files: regularAt("/host/proc/1/root/etc", 0o40755, criutest.RootMount, 0), spec: mounted("/host", "bind", t.TempDir()), finds: "/host/proc"},
		"not procfs":         {files: regularAt("/srv/proc/one/root", 0o40755, criutest.RootMount, 0)},
	}
	for _, name := range []string{"", "data", "x/etc/passwd", "//etc/passwd", "/a/../../etc", "/..", "/a/", "/a//b", "/a/.", "/" + strings.Repeat("a", 4096)} {
		cases["path "+printable(name)] = filesCase{files: regularAt(name, 0o100644, criutest.RootMount, 0), invalid: "not absolute and clean"}
	}
	testFiles(t, cases)
}

func mounted(at, kind, source string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: at, Type: kind, Source: source})
	}
}

func TestKernelFiles(t *testing.T) {
	admin := func(s *specs.Spec) { withCaps(s, "CAP_SYS_ADMIN") }
	const dir, file = 0o40555, 0o100444
	cases := map[string]filesCase{
		"masked":         {files: regularAt("/proc/meminfo", 0o20666, criutest.ProcMount, unix.O_RDWR), spec: func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/proc/meminfo"} }},
		"sysfs":          {files: regularAt("/sys/kernel/mm", 0o100444, criutest.RootMount, 0), spec: mounted("/sys", "sysfs", "sysfs")},
		"sysfs, secret":  {files: regularAt("/sys/module/x/sections/.text", 0o100400, criutest.RootMount, 0), spec: mounted("/sys", "sysfs", "sysfs"), finds: "CAP_SYS_ADMIN"},
		"cgroup":         {files: regularAt("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", 0o100644, criutest.RootMount, 0), spec: mounted("/sys/fs/cgroup", "cgroup", "cgroup")},
		"cgroup, write":  {files: regularAt("/sys/fs/cgroup/cgroup.procs", 0o100644, criutest.RootMount, unix.O_RDWR), spec: mounted("/sys/fs/cgroup", "cgroup", "cgroup"), finds: "CAP_SYS_ADMIN"},
		"cgroup, admin":  {files: regularAt("/sys/fs/cgroup/cgroup.procs", 0o100644, criutest.RootMount, unix.O_RDWR), spec: func(s *specs.Spec) { mounted("/sys/fs/cgroup", "cgroup", "cgroup")(s); admin(s) }},
		"ended process":  {files: regularAt("/proc/5/stat", file, criutest.ProcMount, 0), images: remaps(9, 5, remapProc)},
		"not that one":   {files: regularAt("/proc/5/stat", file, criutest.ProcMount, 0), images: remaps(9, 6, remapProc), invalid: "no file of process 6"},
		"no process":     {files: regularAt("/data", file, criutest.RootMount, 0), images: remaps(9, 6, remapProc), invalid: "no file of process 6"},
		"too high a PID": {files: regularAt("/proc/99999999/stat", file, criutest.ProcMount, 0), images: remaps(9, 99999999, remapProc), invalid: "no file of process"},
	}
	for name, c := range map[string]struct {
		mode, flags uint32
		fine        bool
	}{
		"/proc":                         {dir, 0, true},
		"/proc/meminfo":                 {file, 0, true},
		"/proc/sys/kernel/hostname":     {0o100644, 0, true},
		"/proc/sys/kernel/core_pattern": {0o100644, unix.O_WRONLY, false},
		"/proc/sysrq-trigger":           {0o100200, unix.O_WRONLY, false},
		"/proc/kmsg":                    {0o100400, 0, false},
		"/proc/kallsyms":                {file, 0, false},
		"/proc/kcore":                   {0o100400, 0, false},
		"/proc/1":                       {dir, 0, true},
		"/proc/1/status":                {file, 0, true},
		"/proc/1/task/1/stat":           {file, 0, true},
		"/proc/1/fd":                    {0o40500, 0, true},
		"/proc/1/fdinfo/3":              {0o100400, 0, true},
		"/proc/1/net/tcp":               {file, 0, true},
		"/proc/1/oom_score_adj":         {0o100644, unix.O_RDWR, true},
		"/proc/1/comm":                  {0o100644, unix.O_WRONLY, true},
		"/proc/1/mem":                   {0o100600, unix.O_RDWR, false},
		"/proc/1/pagemap":               {0o100400, 0, false},
		"/proc/1/stack":                 {0o100400, 0, false},
		"/proc/1/attr/current":          {0o100666, unix.O_RDWR, false},
		"/proc/1/fd/1000":               {dir, 0, false},
		"/proc/1/root":                  {dir, 0, false},
		"/proc/1/cwd":                   {dir, 0, false},
		"/proc/1/exe":                   {0o100755, 0, false},
		"/proc/1/ns/net":                {file, 0, false},
		"/proc/1/root/etc/shadow":       {0o100600, 0, false},
		"/proc/1/task/1/cwd/x":          {file, 0, false},
		"/proc/7/status":                {file, 0, false},
		"/proc/self":                    {dir, 0, false},
		"/proc/self/fd/1000":            {dir, 0, false},
		"/proc/thread-self":             {dir, 0, false},
	} {
		finds := "mode"
		if c.fine {
			finds = ""
		}
		cases[name] = filesCase{files: regularAt(name, c.mode, criutest.ProcMount, c.flags), finds: finds}
	}
	testFiles(t, cases)
}

// TestInheritedName: CRIU takes a file from runc by its path without the slash.
func TestInheritedName(t *testing.T) {
	testFiles(t, map[string]filesCase{
		"network":  {files: regularAt("/extRootNetNS", 0o100444, criutest.RootMount, 0), finds: "runc uses"},
		"deeper":   {files: regularAt("/data/extRootNetNS", 0o100444, criutest.RootMount, 0)},
		"unmapped": {files: []*fdinfo.FileEntry{criutest.Regular(9, "/data/x", 0o100644, func(e *regfile.RegFileEntry) { e.MntId = proto.Int32(-1) })}, invalid: "in no mount"},
	})
}
