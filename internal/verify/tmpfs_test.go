package verify

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// devImages are the images of a container with these files in /dev besides the ordinary ones.
func devImages(files ...criutest.Entry) map[string]string {
	return criutest.MountImages(criutest.Mounts(), append(criutest.DevFiles(), files...), criutest.CgroupFiles())
}

func unpack(t *testing.T, data []byte) map[string]*tar.Header {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*tar.Header{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		h.Gname = string(content) // for the test to see
		out[h.Name] = h
	}
}

func header(kind byte, name, link string, mode int64) criutest.Entry {
	return criutest.Entry{Header: tar.Header{Typeflag: kind, Name: name, Linkname: link, Mode: mode}}
}

func TestTmpfs(t *testing.T) {
	aNode(t)
	owned := criutest.File("./dir/file", "content")
	owned.Uid, owned.Gid, owned.Uname, owned.Gname = 1000, 1001, "root", "root"
	disk := header(tar.TypeBlock, "./sda", "", 0o666)
	disk.Devmajor, disk.Uid = 8, 1000
	v, _, err := checkMounts(t, devImages(
		criutest.Dir("./dir/"), owned, header(tar.TypeLink, "./hard", "dir/../dir/./file", 0o644), header(tar.TypeFifo, "./fifo", "", 0o600),
		criutest.Link("./up", "../../etc/shadow"), disk, header(tar.TypeDir, "./group/", "", 0o2770), criutest.File("./"+strings.Repeat("long", 40), "x"),
	), mountsSpec())
	if err != nil || v.report.Total != 0 {
		t.Fatal(err, v.report.Err())
	}
	files := unpack(t, v.report.Replaced["tmpfs-dev-3.tar.gz.img"])
	if want := len(criutest.DevFiles()) + 8; len(files) != want {
		t.Errorf("%d files, want %d", len(files), want)
	}
	if f := files["./dir/file"]; f == nil || f.Gname != "content" || f.Uid != 1000 || f.Gid != 1001 || f.Uname != "" {
		t.Errorf("file %+v", f)
	}
	if f := files["./sda"]; f == nil || f.Mode != 0o600 || f.Uid != 0 || f.Devmajor != 8 {
		t.Errorf("device %+v: its access is not the spec's", f)
	}
	if f := files["./hard"]; f == nil || f.Linkname != "./dir/file" {
		t.Errorf("link %+v: it is not the one that was compared", f)
	}
	if f := files["./up"]; f == nil || f.Linkname != "../../etc/shadow" {
		t.Errorf("link %+v", f)
	}
	if f := files["./group/"]; f == nil || f.Mode != 0o2770 {
		t.Errorf("directory %+v", f)
	}
	if v.report.Replaced["tmpfs-dev-7.tar.gz.img"] == nil {
		t.Error("CRIU would read the checkpoint's own archive")
	}
}

func TestTmpfsRefused(t *testing.T) {
	aNode(t)
	disk, fake := header(tar.TypeBlock, "./vda", "", 0o600), header(tar.TypeChar, "./sda", "", 0o600)
	disk.Devmajor, fake.Devmajor = 254, 8
	for name, c := range map[string]struct {
		entry criutest.Entry
		says  []string
	}{
		"memory":            {criutest.Char("./mem", 1, 1), []string{"mount /dev", "device", "./mem, c 1:1"}},
		"block device":      {disk, []string{"./vda, b 254:0"}},
		"device as another": {fake, []string{"./sda, c 8:0"}},
		"setuid":            {header(tar.TypeReg, "./su", "", 0o4755), []string{"./su with mode 4755"}},
		"setgid":            {header(tar.TypeReg, "./sg", "", 0o2755), []string{"./sg with mode 2755"}},
	} {
		t.Run(name, func(t *testing.T) { wantFindings(t, devImages(c.entry), mountsSpec(), c.says...) })
	}
	t.Run("of no mount", func(t *testing.T) {
		for _, name := range []string{"tmpfs-dev-8.tar.gz.img", "tmpfs-3.tar.gz.img", "tmpfs-dev-03.tar.gz.img"} {
			files := devImages()
			files[name] = criutest.Archive(criutest.Dir("./"))
			wantFindings(t, files, mountsSpec(), name)
		}
	})
}

func TestTmpfsMalformed(t *testing.T) {
	aNode(t)
	pax := func(key, value string) criutest.Entry {
		e := criutest.File("./pax", "")
		e.PAXRecords = map[string]string{key: value}
		return e
	}
	for name, entries := range map[string][]criutest.Entry{
		"absolute":           {criutest.File("/etc/passwd", "x")},
		"up":                 {criutest.File("./../x", "x")},
		"up further":         {criutest.File("../../x", "x")},
		"not clean":          {criutest.File("./dir/../x", "x")},
		"without ./":         {criutest.File("x", "x")},
		"twice":              {criutest.File("./x", "x"), criutest.File("./x", "y")},
		"link for directory": {criutest.Dir("./x/"), criutest.Link("./x", "/etc")},
		"through a link":     {criutest.Link("./x", "/etc"), criutest.File("./x/passwd", "x")},
		"in no directory":    {criutest.File("./no/passwd", "x")},
		"link to the host":   {header(tar.TypeLink, "./x", "/etc/shadow", 0o644)},
		"link to a link":     {criutest.Link("./y", "/etc/shadow"), header(tar.TypeLink, "./x", "./y", 0o644)},
		"link upwards":       {header(tar.TypeLink, "./x", "../etc/shadow", 0o644)},
		"capability":         {pax("SCHILY.xattr.security.capability", "x")},
		"ACL":                {pax("SCHILY.acl.access", "x")},
		"unknown type":       {header('V', "./volume", "", 0)},
		"another root":       {header(tar.TypeSymlink, "./", "/etc", 0o777)},
		"too large":          {{Header: tar.Header{Typeflag: tar.TypeReg, Name: "./big", Mode: 0o644, Size: maxTmpfs + 1}}},
		"point is a link":    nil,
		"point is a device":  nil,
		"point is missing":   nil,
	} {
		t.Run(name, func(t *testing.T) {
			files := devImages(entries...)
			dev := criutest.DevFiles()
			for i := range dev {
				if dev[i].Name != "./shm/" {
					continue
				}
				switch name {
				case "point is a link":
					dev[i] = criutest.Link("./shm", "/etc")
				case "point is a device":
					dev[i] = criutest.Char("./shm", 1, 3)
				case "point is missing":
					dev = append(dev[:i], dev[i+1:]...)
				default:
					continue
				}
				files = criutest.MountImages(criutest.Mounts(), dev, criutest.CgroupFiles())
				break
			}
			_, _, err := checkMounts(t, files, mountsSpec())
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "tmpfs-dev-3.tar.gz.img") {
				t.Errorf("error %v", err)
			} else if name == "too large" && !strings.Contains(err.Error(), "more than 67108864 bytes") {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("many", func(t *testing.T) {
		var entries []criutest.Entry
		for i := range maxTmpfsEntries {
			entries = append(entries, criutest.Dir(fmt.Sprintf("./%d/", i)))
		}
		if _, _, err := checkMounts(t, devImages(entries...), mountsSpec()); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "more than 10000") {
			t.Errorf("error %v", err)
		}
	})
	for name, content := range map[string]string{"no archive": "x", "cut": devImages()["tmpfs-dev-3.tar.gz.img"][:100], "empty": ""} {
		t.Run(name, func(t *testing.T) {
			files := devImages()
			files["tmpfs-dev-3.tar.gz.img"] = content
			if _, _, err := checkMounts(t, files, mountsSpec()); !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		files := devImages()
		delete(files, "tmpfs-dev-3.tar.gz.img")
		if _, _, err := checkMounts(t, files, mountsSpec()); !errdefs.IsInvalidArgument(err) {
			t.Errorf("error %v", err)
		}
	})
}
