package verify

import (
	"archive/tar"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// TestAccessMounts has the files in mounts of the spec, which are judged where they are on the host.
func TestAccessMounts(t *testing.T) {
	root, volume := accessTree(t), accessTree(t)
	if err := os.Symlink("hidden", filepath.Join(root, "var")); err != nil {
		t.Fatal(err)
	}
	bind := func(at, source string, options ...string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: at, Type: "bind", Source: source, Options: append(options, "rbind")})
		}
	}
	device := func(mode os.FileMode, gid uint32) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/disk", Type: "b", Major: 8, Minor: 1, FileMode: &mode, GID: &gid}}
		}
	}
	disk := criutest.Char("./disk", 8, 1)
	disk.Typeflag = tar.TypeBlock
	devs := map[string]string{"tmpfs-dev-52.tar.gz.img": criutest.Archive(append(criutest.DevFiles(), disk)...)}
	at := func(name string, flags uint32) []*fdinfo.FileEntry {
		return regularAt(name, 0o100644, criutest.RootMount, flags)
	}
	sent := func(name string) ([]*fdinfo.FileEntry, map[string]string) {
		return append(at(name, unix.O_RDONLY), criutest.UnixSocket(8, 0, "")), undescribed(inMessage(9))
	}
	sentOwn, inOwn := sent("/all")
	sentVolume, inVolume := sent("/vol/all")
	const read, both = unix.O_RDONLY, unix.O_RDWR
	for name, c := range map[string]struct {
		files  []*fdinfo.FileEntry
		images map[string]string
		spec   func(*specs.Spec)
		finds  string
	}{
		"volume":                      {at("/vol/all", read), nil, bind("/vol", volume), ""},
		"volume's secret":             {at("/vol/secret", read), nil, bind("/vol", volume), "/vol/secret"},
		"volume over a secret":        {at("/secret", read), nil, bind("/secret", filepath.Join(volume, "all")), ""},
		"a secret over a file":        {at("/all", read), nil, bind("/all", filepath.Join(volume, "secret")), "/all"},
		"volume's closed directory":   {at("/vol/all", read), nil, bind("/vol", filepath.Join(volume, "closed")), "/vol: owner 0:0, mode 0700"},
		"below a closed directory":    {at("/closed/vol/all", read), nil, bind("/closed/vol", volume), "/closed: owner 0:0, mode 0700"},
		"the node's parents":          {at("/vol", read), nil, bind("/vol", filepath.Join(volume, "closed/all")), ""},
		"mount point to be made":      {at("/new/vol/all", read), nil, bind("/new/vol", volume), ""},
		"mount point is absent":       {at("/new/vol/secret", read), nil, bind("/new/vol", volume), "/new/vol/secret"},
		"own":                         {at("/vol/own", both), nil, bind("/vol", volume), ""},
		"own, read-only":              {at("/vol/own", both), nil, bind("/vol", volume, "ro"), "/vol/own"},
		"read-only is another matter": {at("/vol/writable", both), nil, bind("/vol", volume, "ro"), ""},
		"through a link of the image": {at("/hidden/vol/secret", read), nil, bind("/var/vol", volume), "/hidden/vol/secret"},
		"volume with a link":          {at("/vol/link", read), nil, bind("/vol", volume), "the symbolic link /vol/link"},
		"no such volume":              {at("/vol/all", read), nil, bind("/vol", "/nonexistent", "rw"), "cannot be opened"},
		"deeper volume":               {at("/vol/mine/all", read), nil, func(s *specs.Spec) { bind("/vol/mine", volume)(s); bind("/vol", volume)(s) }, ""},
		"device of all":               {at("/dev/null", both), devs, device(0o600, 0), ""},
		"device of root":              {at("/dev/disk", read), devs, device(0o600, 0), "/dev/disk"},
		"device of a group":           {at("/dev/disk", both), devs, device(0o660, 2000), ""},
		"device of another group":     {at("/dev/disk", both), devs, device(0o660, 3000), "mode 0660"},
		"device to read":              {at("/dev/disk", both), devs, device(0o640, 2000), "open for reading and writing"},
		"in a message":                {sentOwn, inOwn, nil, ""},
		"volume's, in a message":      {sentVolume, inVolume, bind("/vol", volume), "/vol/all, in a message"},
		"device of nobody":            {at("/dev/disk", read), devs, nil, "./disk, b 8:1"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := accessSpec()
			if c.spec != nil {
				c.spec(spec)
			}
			report, err := accessTo(t, spec, root, criutest.Files(c.files...), c.images)
			requireFinding(t, report, err, c.finds)
		})
	}
}
