package verify

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	ghost_file "github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	sk_unix "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-unix"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// attacked is a pod, by default a restricted one, and a checkpoint for it.
type attacked struct {
	t      *testing.T
	spec   *specs.Spec
	root   string // file system of the new container
	volume string
	files  []*fdinfo.FileEntry
	images map[string]string
}

// mount gives the pod its volume.
func (a *attacked) mount(at string, options ...string) {
	a.spec.Mounts = append(a.spec.Mounts, specs.Mount{Destination: at, Type: "bind", Source: a.volume, Options: append(options, "rbind")})
}

// shm makes the volume the pod's /dev/shm.
func (a *attacked) shm() {
	i := slices.IndexFunc(a.spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" })
	a.spec.Mounts[i].Source = a.volume
}

// deleted is a file that was deleted and that CRIU is to make. It belongs to the pod's user.
func (a *attacked) deleted(name string, mode uint32, mount int32, change ...func(*ghost_file.GhostFileEntry)) {
	a.files = append(a.files, regularAt(name, mode, mount, 0)...)
	a.images = merged(a.images, ghostOf(mode, func(e *ghost_file.GhostFileEntry) {
		e.Uid, e.Gid = proto.Uint32(1000), proto.Uint32(1000)
		for _, f := range change {
			f(e)
		}
	}))
}

func (a *attacked) do(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// in makes a file or, if the name ends so, a directory that everybody may use.
func (a *attacked) in(dir, name string) {
	a.t.Helper()
	file := filepath.Join(dir, name)
	if strings.HasSuffix(name, "/") {
		a.do(os.MkdirAll(file, 0o755))
	} else {
		a.do(errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o666)))
	}
	if !strings.HasSuffix(name, "/") {
		a.do(os.Chmod(file, 0o666))
		file = filepath.Dir(file)
	}
	for at := filepath.Clean(file); at != filepath.Clean(dir) && len(at) > 1; at = filepath.Dir(at) {
		a.do(os.Chmod(at, 0o777))
	}
}

// link makes a link in the root file system or the volume.
func (a *attacked) link(dir, name, target string) {
	a.t.Helper()
	a.do(errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777), os.Symlink(target, filepath.Join(dir, name))))
}

// capable makes the pod an ordinary one, whose root may override permissions.
func (a *attacked) capable() {
	set := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID"}
	a.spec.Process.User, a.spec.Process.NoNewPrivileges = specs.User{}, false
	a.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: set, Permitted: set, Effective: set}
}

// verifyBoth runs both phases.
func (a *attacked) verifyBoth() error {
	a.t.Helper()
	node(a.t)
	core := criutest.Core(func(c *criu_core.CoreEntry) { asRestricted(c.ThreadCore.Creds) })
	program := criutest.Regular(criutest.Program, "/bin/sh", 0o100755)
	a.in(a.root, "bin/sh")
	a.do(errors.Join(os.Chmod(filepath.Join(a.root, "bin/sh"), 0o755), os.Chmod(a.root, 0o777)))
	images := merged(criutest.Checkpoint(criutest.Task{PID: 1, Core: core}), criutest.Files(append([]*fdinfo.FileEntry{program}, a.files...)...), a.images, map[string]string{seccompImage: criutest.Seccomp()})
	// All directories are as they were.
	s := subjectOf(a.t, stage(a.t, images, a.spec, a.root), a.spec, Rules{})
	before, err := Before(a.t.Context(), s)
	if err = errors.Join(err, before.Err()); err != nil {
		return err
	}
	for name, mode := range before.Directories {
		if _, err := os.Lstat(filepath.Join(a.root, name)); err != nil {
			continue
		}
		a.do(os.Chmod(filepath.Join(a.root, name), os.FileMode(mode&0o777)|map[bool]os.FileMode{true: os.ModeSticky}[mode&0o1000 != 0]))
	}
	after, err := After(a.t.Context(), s, a.root)
	return errors.Join(err, after.Err())
}

func testAttacks(t *testing.T, cases map[string]struct {
	attack func(*attacked)
	says   string // "" is an honest twin
}) {
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := &attacked{t: t, spec: strictPod(t), root: t.TempDir(), volume: t.TempDir(), images: map[string]string{}}
			a.spec.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000, 2000}}
			a.do(os.Chmod(a.volume, 0o777))
			c.attack(a)
			err := a.verifyBoth()
			switch {
			case c.says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.says != "" && (!errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("got %v, want a refusal that says %q", err, c.says)
			}
		})
	}
}

// TestAttacksThroughLinks: no link leads CRIU anywhere, wherever it is and however the pod writes the path of a volume.
func TestAttacksThroughLinks(t *testing.T) {
	type attack = struct {
		attack func(*attacked)
		says   string
	}
	out := "/proc/self/fd/126/../../etc"
	cases := map[string]attack{
		"in /dev/shm": {func(a *attacked) {
			a.link(a.volume, "l", "/etc")
			a.shm()
			a.files = regularAt("/dev/shm/l/victim", 0o100644, criutest.RootMount, 0)
		}, "symbolic link /dev/shm/l"},
		"in /dev/shm, twin": {func(a *attacked) {
			a.link(a.volume, "l", "/etc")
			a.in(a.volume, "d/victim")
			a.shm()
			a.files = regularAt("/dev/shm/d/victim", 0o100666, criutest.RootMount, unix.O_RDWR)
		}, ""},
		"hidden by a mount": {func(a *attacked) {
			a.link(a.root, "dev/l", "/etc/cron.d")
			a.deleted("/dev/l/evil", 0o100644, reallyRoot)
		}, "the innermost mount of the path"},
		"hidden by a mount, stays": {func(a *attacked) {
			a.link(a.root, "dev/l", "/etc/cron.d")
			a.files = append(regularAt("/dev/l/evil", 0o100644, reallyRoot, 0), criutest.Regular(10, "/dev/l/link_remap.1", 0o100644))
			a.files[1].Reg.MntId = proto.Int32(reallyRoot)
			a.images = remaps(9, 10, remapLink)
		}, "the innermost mount of the path"},
		"hidden by a mount, twin": {func(a *attacked) {
			a.link(a.root, "dev/l", "/etc/cron.d")
			a.in(a.root, "data/")
			a.deleted("/data/evil", 0o100644, reallyRoot)
		}, ""},
		"a socket": {func(a *attacked) {
			a.link(a.volume, "l", out)
			a.mount("/run/x")
			a.files = []*fdinfo.FileEntry{criutest.UnixSocket(9, 0, "/run/x/l/a.sock", func(e *sk_unix.UnixSkEntry) { e.FilePerms = nil })}
		}, "outside procfs"},
	}
	for spelling, at := range map[string]string{"as it is": "/run/x", "through a link": "/var/run/x", "through a link of the checkpoint": "/mnt/x"} {
		links := func(a *attacked) {
			a.link(a.root, "var/run", "/run")
			a.link(a.root, "mnt", "run")
			a.mount(at, "rw")
		}
		cases["volume "+spelling] = attack{func(a *attacked) {
			a.link(a.volume, "l", out)
			links(a)
			a.files = regularAt("/run/x/l/victim", 0o100644, criutest.RootMount, 0)
		}, "symbolic link /run/x/l"}
		cases["volume "+spelling+", of who may open all"] = attack{func(a *attacked) {
			a.capable()
			a.link(a.volume, "l", out)
			links(a)
			a.files = regularAt("/run/x/l/victim", 0o100644, criutest.RootMount, 0)
		}, "symbolic link /run/x/l"}
		cases["deleted in a volume "+spelling] = attack{func(a *attacked) {
			a.link(a.volume, "l", out)
			links(a)
			a.deleted("/run/x/l/evil", 0o100644, criutest.RootMount)
		}, "symbolic link /run/x/l"}
		cases["volume "+spelling+", twin"] = attack{func(a *attacked) {
			a.link(a.volume, "l", out)
			a.in(a.volume, "victim")
			links(a)
			a.files = regularAt("/run/x/victim", 0o100666, criutest.RootMount, 0)
			a.deleted("/run/x/evil", 0o100644, criutest.RootMount)
			*a.files[1].Id, *a.files[1].Reg.Id = 11, 11
			a.images = merged(a.images, map[string]string{remapImage: remaps(11, 0x1a, remapGhost)[remapImage]})
		}, ""}
		cases["read-only volume "+spelling] = attack{func(a *attacked) {
			a.link(a.root, "var/run", "/run")
			a.link(a.root, "mnt", "run")
			a.mount(at, "ro")
			a.deleted("/run/x/gone", 0o100644, criutest.RootMount)
		}, "read-only mount"}
		cases["kernel's volume "+spelling] = attack{func(a *attacked) {
			a.link(a.root, "var/run", "/run")
			a.link(a.root, "mnt", "run")
			a.volume = "/proc"
			a.mount(at, "ro")
			a.files = regularAt("/run/x/1/environ", 0o100400, criutest.RootMount, 0)
		}, "/run/x/1/environ"}
		cases["kernel's volume "+spelling+", twin"] = attack{func(a *attacked) {
			a.link(a.root, "var/run", "/run")
			a.link(a.root, "mnt", "run")
			a.volume = "/proc"
			a.mount(at, "ro")
			a.files = regularAt("/run/x/meminfo", 0o100444, criutest.RootMount, 0)
		}, ""}
	}
	testAttacks(t, cases)
}

// TestAttacksByDeletedFiles: CRIU makes nothing for which a process would have needed a right that it has not, and changes nothing that
// is there.
func TestAttacksByDeletedFiles(t *testing.T) {
	owner := func(uid, gid uint32) func(*ghost_file.GhostFileEntry) {
		return func(e *ghost_file.GhostFileEntry) { e.Uid, e.Gid = &uid, &gid }
	}
	volume := func(name string, mode uint32, change ...func(*ghost_file.GhostFileEntry)) func(*attacked) {
		return func(a *attacked) {
			a.in(a.volume, "there")
			a.in(a.volume, "dir/")
			a.in(a.root, "data/")
			a.mount("/vol", "rw")
			a.deleted(name, mode, criutest.RootMount, change...)
		}
	}
	testAttacks(t, map[string]struct {
		attack func(*attacked)
		says   string
	}{
		"directory over a file":              {volume("/vol/there", 0o40777), "where something is now"},
		"directory over a directory":         {volume("/vol/dir", 0o40777), "where something is now"},
		"directory over a volume":            {volume("/vol", 0o40777), "a deleted mount point"},
		"directory where nothing is":         {volume("/vol/gone", 0o40755), ""},
		"directory in root, over another":    {volume("/data", 0o40777), "where something is now"},
		"directory in root, nothing there":   {volume("/data/gone", 0o40755), ""},
		"directory in memory, over another":  {volume("/dev/pts", 0o40777), "mount"},
		"directory in memory, over a device": {volume("/dev/null", 0o40777), "where something is now"},
		"directory of another user":          {volume("/data/gone", 0o40777, owner(0, 0)), "user 0"},
		"file of another user":               {volume("/vol/gone", 0o100644, owner(0, 1000)), "user 0"},
		"file of another group":              {volume("/vol/gone", 0o100644, owner(1000, 0)), "group 0"},
		"file of one of its groups":          {volume("/vol/gone", 0o100644, owner(1000, 2000)), ""},
		"file of a directory's group": {func(a *attacked) {
			a.in(a.volume, "shared/")
			a.do(errors.Join(os.Chown(filepath.Join(a.volume, "shared"), 0, 50), os.Chmod(filepath.Join(a.volume, "shared"), 0o777|os.ModeSetgid)))
			volume("/vol/shared/gone", 0o100644, owner(1000, 50))(a)
		}, ""},
		"file of a directory's group, which keeps it": {func(a *attacked) {
			a.in(a.volume, "shared/")
			a.do(os.Chown(filepath.Join(a.volume, "shared"), 0, 50))
			volume("/vol/shared/gone", 0o100644, owner(1000, 50))(a)
		}, "group 50"},
		"file of anybody, who may give it away": {func(a *attacked) { a.capable(); volume("/vol/gone", 0o100644, owner(33, 33))(a) }, ""},
		"set-user-ID":                           {volume("/vol/gone", 0o44755), "set-user-ID"},
		"set-group-ID":                          {volume("/vol/gone", 0o42755), "set-group-ID"},
		"in another's place": {func(a *attacked) {
			a.do(os.Chmod(a.volume, 0o777|os.ModeSticky))
			volume("/vol/there", 0o100644)(a)
		}, "only the owner may remove it"},
		"linked, and deleted too": {func(a *attacked) {
			a.mount("/vol", "rw")
			a.in(a.volume, "link_remap.1")
			a.files = append(regularAt("/vol/gone", 0o100644, criutest.RootMount, 0), criutest.Regular(10, "/vol/link_remap.1", 0o100666))
			a.images = merged(remaps(9, 10, remapLink), map[string]string{})
		}, ""},
	})
}

// TestAttackByMessageQueue: whose a queue is does not depend on who opens it for the process.
func TestAttackByMessageQueue(t *testing.T) {
	queue := func(mode, flags uint32) func(*attacked) {
		return func(a *attacked) {
			a.spec.Mounts = append(a.spec.Mounts, specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue"})
			a.files = regularAt("/dev/mqueue/q", mode, criutest.RootMount, flags)
		}
	}
	testAttacks(t, map[string]struct {
		attack func(*attacked)
		says   string
	}{
		"another's":                 {queue(0o100600, unix.O_RDWR), "CAP_DAC_OVERRIDE"},
		"another's, to read":        {queue(0o100640, unix.O_RDONLY), "CAP_DAC_OVERRIDE"},
		"everybody's":               {queue(0o100666, unix.O_RDWR), ""},
		"everybody's, to read":      {queue(0o100644, unix.O_RDONLY), ""},
		"everybody's, not to write": {queue(0o100644, unix.O_WRONLY), "CAP_DAC_OVERRIDE"},
	})
}

// TestDeletedDirectoryInVolume: what appears at the path of a deleted directory after the verification becomes nobody's who was not allowed to use it.
func TestDeletedDirectoryInVolume(t *testing.T) {
	spec, root, report := filesSpec(mounted("/vol", "bind", t.TempDir())), t.TempDir(), &Report{}
	files := regularAt("/vol/gone", 0o41777, criutest.RootMount, 0)
	images := stage(t, merged(criutest.Tasks(criutest.Task{PID: 1}), criutest.Files(files...), ghostOf(0o41777, func(e *ghost_file.GhostFileEntry) {
		e.Uid, e.Gid = proto.Uint32(1000), proto.Uint32(1000)
	})), spec, root)
	err := inContainer(t, subjectOf(t, images, spec, Rules{}), root, report, (*container).paths, (*container).deleted, func(c *container) error { return c.replaceFiles() })
	requireFinding(t, report, err, "")
	replaced := map[string]string{}
	for name, data := range report.Replaced {
		replaced[name] = string(data)
	}
	again := subjectOf(t, replaced, spec, Rules{})
	ghost, err := criu.One[*ghost_file.GhostFileEntry](again.Images, "ghost-file-1a.img", "GHOST_FILE")
	if err != nil || ghost.GetMode() != 0o40700 || ghost.GetUid() != 0 || ghost.GetGid() != 0 || ghost.GetIno() != 7 {
		t.Errorf("%v, %v", ghost, err)
	}
	all, err := criu.Entries[*fdinfo.FileEntry](again.Images, "files.img", "FILES")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if r := f.GetReg(); r.GetName() == "/vol/gone" && r.GetMode() != 0o40700 || r.GetName() == "/" && r.GetMode() != 0o40755 {
			t.Errorf("%v", f)
		}
	}
}
