package verify

import (
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// merged returns all images of several sets.
func merged(sets ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, s := range sets {
		maps.Copy(out, s)
	}
	return out
}

// ownNetwork makes a network namespace in which anybody may bind to ports from first on, and returns its path.
func ownNetwork(t *testing.T, first int) string {
	t.Helper()
	paths, done := make(chan string), make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte(strconv.Itoa(first)), 0o600)
		}
		if err != nil {
			t.Error(err)
		}
		paths <- "/proc/self/task/" + strconv.Itoa(unix.Gettid()) + "/ns/net"
		<-done
	}()
	return <-paths
}

// linkFree is a root file system, or a volume, with a file /data/gone and links.
func linkFree(t *testing.T, links map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range links {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLinks(t *testing.T) {
	const path = unix.O_PATH | unix.O_NOFOLLOW
	for name, c := range map[string]struct {
		file  []*fdinfo.FileEntry
		links map[string]string
		finds string
	}{
		"no link":                {regularAt("/data/gone/by", 0o100644, criutest.RootMount, 0), nil, ""},
		"other link":             {regularAt("/data/gone", 0o100644, criutest.RootMount, 0), map[string]string{"other": "/etc"}, ""},
		"directory is a link":    {regularAt("/data/gone", 0o100644, criutest.RootMount, 0), map[string]string{"data": "/etc"}, "symbolic link /data"},
		"file is a link":         {regularAt("/data/gone", 0o100644, criutest.RootMount, 0), map[string]string{"data/gone": "/proc/self/fd/1000"}, "symbolic link /data/gone"},
		"link is open":           {regularAt("/data/link", 0o120777, criutest.RootMount, path), map[string]string{"data/link": "/etc"}, ""},
		"link is followed":       {regularAt("/data/link", 0o120777, criutest.RootMount, unix.O_PATH), map[string]string{"data/link": "/etc"}, "symbolic link /data/link"},
		"link on the way":        {regularAt("/data/link", 0o120777, criutest.RootMount, path), map[string]string{"data": "/etc"}, "symbolic link /data"},
		"watch":                  {[]*fdinfo.FileEntry{watchOf("/data/x", criutest.RootMount)}, map[string]string{"data": "/etc"}, "symbolic link /data"},
		"below a mount point":    {regularAt("/dev/null", 0o20666, criutest.DevMount, 0), map[string]string{"dev/null": "/etc"}, ""},
		"socket":                 {[]*fdinfo.FileEntry{criutest.UnixSocket(9, 0, "/var/run/a.sock")}, map[string]string{"var": "data"}, ""},
		"socket, absolute":       {[]*fdinfo.FileEntry{criutest.UnixSocket(9, 0, "/run/a.sock")}, map[string]string{"run": "/data"}, ""},
		"socket outside":         {[]*fdinfo.FileEntry{criutest.UnixSocket(9, 0, "/run/a.sock")}, map[string]string{"run": "/proc/self/fd/1000"}, "outside procfs"},
		"socket, by turns":       {[]*fdinfo.FileEntry{criutest.UnixSocket(9, 0, "/run/a.sock")}, map[string]string{"run": "data/up", "data/up": "../p", "p": "proc/1/root/run"}, "outside procfs"},
		"socket, in circles":     {[]*fdinfo.FileEntry{criutest.UnixSocket(9, 0, "/run/a.sock")}, map[string]string{"run": "run"}, "outside procfs"},
		"socket of no path":      {[]*fdinfo.FileEntry{criutest.UnixSocket(9, 0, "\x00run/a.sock")}, map[string]string{"run": "/proc/self"}, ""},
		"a way up is no way out": {[]*fdinfo.FileEntry{criutest.UnixSocket(9, 0, "/run/a.sock")}, map[string]string{"run": "../../../data"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			report, err := openFilesIn(t, linkFree(t, c.links), criutest.Files(c.file...), filesSpec(nil), Rules{})
			requireFinding(t, report, err, c.finds)

			// The same in a volume.
			volume := linkFree(t, c.links)
			report, err = openFilesOf(t, criutest.Files(moved(c.file, "/volume")...), filesSpec(mounted("/volume", "bind", volume)), Rules{})
			if strings.HasPrefix(name, "socket") || strings.HasPrefix(name, "a way") || strings.HasPrefix(name, "below") {
				return // what is absolute leads elsewhere
			}
			requireFinding(t, report, err, strings.ReplaceAll(c.finds, "/data", "/volume/data"))
		})
	}
}

// moved returns the files in a volume.
func moved(files []*fdinfo.FileEntry, to string) []*fdinfo.FileEntry {
	for _, f := range files {
		if f.Reg != nil {
			name := to + f.Reg.GetName()
			f.Reg.Name = &name
			root := int32(criutest.RootMount)
			f.Reg.MntId = &root
		}
		if f.Ify != nil {
			name := to + f.Ify.Wd[0].FHandle.GetPath()
			f.Ify.Wd[0].FHandle.Path = &name
		}
	}
	return files
}

func requireFinding(t *testing.T, r *Report, err error, finds string) {
	t.Helper()
	switch {
	case err != nil:
		t.Error(err)
	case finds == "" && r.Total != 0:
		t.Errorf("refused: %v", r.Err())
	case finds != "" && (r.Total != 1 || !strings.Contains(r.Err().Error(), finds)):
		t.Errorf("%d findings, want one that says %q: %v", r.Total, finds, r.Err())
	}
}

// TestLinksOfTmpfs: CRIU unpacks an archive of the checkpoint into a tmpfs.
func TestLinksOfTmpfs(t *testing.T) {
	archived := func(name, target string) map[string]string {
		return map[string]string{"tmpfs-dev-52.tar.gz.img": criutest.Archive(append(slices.DeleteFunc(criutest.DevFiles(), func(e criutest.Entry) bool { return e.Name == name }), criutest.Link(name, target))...)}
	}
	zero := regularAt("/dev/zero", 0o20666, criutest.DevMount, 0)
	testFiles(t, map[string]filesCase{
		"ordinary":   {files: zero, images: archived("./fd", "/proc/self/fd")},
		"replaced":   {files: zero, images: archived("./zero", "/proc/self/fd/1000"), finds: "symbolic link /dev/zero"},
		"no archive": {files: zero, images: map[string]string{"tmpfs-dev-52.tar.gz.img": "x"}, invalid: "no gzip archive"},
	})
}
