package verify

import (
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// mountsSpec is the spec of the container whose mounts are criutest.Mounts.
func mountsSpec() *specs.Spec {
	bind := func(dst, option string) specs.Mount {
		return specs.Mount{Destination: dst, Type: "bind", Source: "/node" + dst, Options: []string{"rbind", "rprivate", option}}
	}
	return &specs.Spec{
		Process: &specs.Process{},
		Root:    &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
			bind("/etc/hosts", "rw"), bind("/data/", "rw"), bind("/secret", "ro"), bind("/dev/shm", "rw"),
		},
		Linux: &specs.Linux{Devices: []specs.LinuxDevice{
			{Path: "/dev/sda", Type: "b", Major: 8, Minor: 0, FileMode: fileMode(0o600)},
		}},
	}
}

func fileMode(m os.FileMode) *os.FileMode { return &m }

// aNode replaces the node: cgroup v1, and these files below /proc and /sys.
func aNode(t *testing.T, files ...string) {
	t.Helper()
	node := fstest.MapFS{}
	for _, f := range files {
		if dir, ok := strings.CutSuffix(f, "/"); ok {
			node[dir[1:]] = &fstest.MapFile{Mode: fs.ModeDir | 0o555}
		} else {
			node[f[1:]] = &fstest.MapFile{}
		}
	}
	stat, unified, statfs := statNode, unifiedNode, statfsNode
	t.Cleanup(func() { statNode, unifiedNode, statfsNode = stat, unified, statfs })
	statNode = func(name string) (os.FileInfo, error) { return fs.Stat(node, name[1:]) }
	unifiedNode = func() bool { return false }
}

// checkMounts compares mounts with a spec. It returns what CRIU would read, by path.
func checkMounts(t *testing.T, files map[string]string, spec *specs.Spec) (*verifier, map[string]*mnt.MntEntry, error) {
	t.Helper()
	return checkMountsIn(t, files, spec, map[string]string{"var/run": "/run"})
}

// checkMountsIn is checkMounts with these links in the root file system.
func checkMountsIn(t *testing.T, files map[string]string, spec *specs.Spec, links map[string]string) (*verifier, map[string]*mnt.MntEntry, error) {
	t.Helper()
	all := criutest.Images(criutest.Processes{1: {specs.UserNamespace}})
	maps.Copy(all, files)
	v, err := verifierOf(t, merged(all, criutest.Tasks(criutest.Task{PID: 1})), spec)
	if err != nil {
		t.Fatal(err)
	}
	images := v.images
	if _, err := v.mountpoints(&place.Mount{At: "/", Kind: place.Root, Contents: &place.Contents{Links: links}}); err != nil {
		return v, nil, err
	}
	if v.report.Unreadable != nil {
		return v, nil, v.report.Unreadable
	}
	replaced := map[string]string{}
	for name, data := range v.report.Replaced {
		if images, ok := images.Size(name); !ok {
			t.Errorf("image %s (%d bytes) is replaced and was not there: nothing can be mounted over it", name, images)
		}
		replaced[name] = string(data)
	}
	again, err := criu.OpenImages(write(t, replaced))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	entries, err := criu.Entries[*mnt.MntEntry](again, "mountpoints-2.img", "MNTS")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*mnt.MntEntry{}
	for _, e := range entries {
		out[e.GetMountpoint()] = e
	}
	return v, out, nil
}

func requireMounts(t *testing.T, v *verifier, err error, says string) {
	t.Helper()
	switch {
	case err != nil:
		t.Error(err)
	case says == "" && v.report.Total != 0:
		t.Errorf("refused: %v", v.report.Err())
	case says != "" && (v.report.Total == 0 || !strings.Contains(v.report.Err().Error(), says)):
		t.Errorf("got %v, want findings that say %q", v.report.Err(), says)
	}
}

func mountFiles(mounts []*mnt.MntEntry) map[string]string {
	return criutest.MountImages(mounts, criutest.DevFiles(), criutest.CgroupFiles())
}

// changed returns the mounts with one of them changed; nil takes it away.
func changed(p string, change func(*mnt.MntEntry)) []*mnt.MntEntry {
	all := criutest.Mounts()
	i := slices.IndexFunc(all, func(m *mnt.MntEntry) bool { return m.GetMountpoint() == p })
	if change == nil {
		return slices.Delete(all, i, i+1)
	}
	change(all[i])
	return all
}

func more(m ...*mnt.MntEntry) []*mnt.MntEntry { return append(m, criutest.Mounts()...) }

// wantMounts fails unless the mounts are accepted.
func wantMounts(t *testing.T, mounts []*mnt.MntEntry, spec *specs.Spec) map[string]*mnt.MntEntry {
	t.Helper()
	v, out, err := checkMounts(t, mountFiles(mounts), spec)
	if err != nil || v.report.Total != 0 {
		t.Fatalf("refused: error %v, findings %v", err, v.report.Err())
	}
	return out
}
