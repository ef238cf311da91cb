package verify

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// Volumes that the checkpoint has not are added.
func TestMountsAdded(t *testing.T) {
	aNode(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	with := func(dst, source string, options ...string) *specs.Spec {
		s := mountsSpec()
		for i, m := range s.Mounts {
			if m.Destination == "/data/" || m.Destination == "/dev/shm" {
				s.Mounts[i].Source = dir
			}
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: dst, Type: "bind", Source: source, Options: append([]string{"rbind"}, options...)})
		return s
	}
	for at, c := range map[string]struct {
		dst, source string
		parent      string
	}{
		"/mnt":            {"/mnt", dir, "/"},
		"/run/x":          {"/var/run/x", file, "/"},
		"/data/sub":       {"/data/sub", dir, "/data"},
		"/dev/new":        {"/dev/new", file, "/dev"},
		"/dev/deep/er":    {"/dev/deep/er", dir, "/dev"},
		"/dev/shm/sub":    {"/dev/shm/sub", dir, "/dev/shm"},
		"/dev/deep/again": {"/dev/deep/../deep/again", file, "/dev"},
	} {
		t.Run(at, func(t *testing.T) {
			for option, flags := range map[string]uint32{"ro": unix.MS_RDONLY, "rw": 0} {
				v, out, err := checkMounts(t, addedFiles(), with(c.dst, c.source, option))
				if err != nil || v.report.Total != 0 {
					t.Fatal(err, v.report.Err())
				}
				m := out[at]
				if m.GetExtKey() != at || m.GetFlags()&unix.MS_RDONLY != flags || m.GetParentMntId() != out[c.parent].GetMntId() || m.GetRootDev() == 0 {
					t.Errorf("%v on %v", m, out[c.parent])
				}
				if c.parent != "/dev" {
					continue
				}
				files := unpack(t, v.report.Replaced["tmpfs-dev-3.tar.gz.img"])
				name := "./" + strings.TrimPrefix(at, "/dev/")
				if f := files[name]; c.source == file && (f == nil || f.Typeflag != tar.TypeReg || f.Size != 0) {
					t.Errorf("%s: %+v", name, f)
				}
				if f := files[name+"/"]; c.source == dir && (f == nil || f.Typeflag != tar.TypeDir) {
					t.Errorf("%s: %+v", name, f)
				}
			}
		})
	}
	for dst, c := range map[string]struct{ source, says string }{
		"/mnt":          {"/node/none", "its source"},
		"/opt/work":     {dir, `"/opt/work/file" open`},
		"/opt":          {dir, `"/opt/work/file" open`},
		"/proc/x":       {dir, "in proc at /proc"},
		"/dev/mqueue/x": {dir, "in mqueue at /dev/mqueue"},
	} {
		_, _, err := checkMounts(t, addedFiles(), with(dst, c.source, "rw"))
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), strconv.Quote(dst)) {
			t.Errorf("%s: got %v, want one that says %q", dst, err, c.says)
		}
	}
	// So would a link in a volume, or the tmpfs, lead it elsewhere.
	if err := os.Symlink("/etc", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for dst, says := range map[string]string{"/data/link": "link /data/link", "/data/link/x": "link /data/link", "/data/sub/x": ""} {
		_, _, err := checkMounts(t, addedFiles(), with(dst, file, "rw"))
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want one that says %q", dst, err, says)
		}
	}
	_, _, err := checkMounts(t, merged(addedFiles(), devImages(criutest.Link("./deep", "/etc"))), with("/dev/deep/er", dir, "rw"))
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "not in a directory") {
		t.Errorf("through a link: %v", err)
	}
}

// addedFiles are the images of an ordinary container that has a file open.
func addedFiles() map[string]string {
	files := criutest.Files(criutest.Regular(10, "/opt/work/file", 0o100644))
	delete(files, "mountpoints-2.img")
	return merged(files, mountFiles(criutest.Mounts()))
}
