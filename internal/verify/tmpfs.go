package verify

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// What the archive of a tmpfs may hold. Those of Kubernetes are next to empty: /dev and, with
// cgroup v1, a folder for each controller. An emptyDir in memory is a bind mount.
const (
	maxTmpfs        = 64 << 20
	maxTmpfsEntries = 10_000
	maxTmpfsArchive = 256 << 20 // unpacked, with all headers
)

// tmpfs checks the archives with the files of the tmpfs mounts and writes them anew. CRIU runs the
// node's tar on them as root (CRIU: filesystems.c, tmpfs_restore), which is another reader than
// this one: what it gets is this one's writing.
func (v *verifier) tmpfs(tree *mountTree) error {
	known := map[string]bool{}
	for _, m := range tree.mounts {
		if !m.isTmpfs() {
			continue
		}
		dev := m.GetRootDev()
		name := fmt.Sprintf("tmpfs-dev-%d.tar.gz.img", dev)
		if dev == 0 || dev>>minorBits != 0 || known[name] {
			return fmt.Errorf("CRIU images: the tmpfs at %.200q has device %d, which is none, or that of another: %w", m.GetMountpoint(), dev, errdefs.ErrInvalidArgument)
		}
		known[name] = true
		var points []point
		for _, o := range tree.mounts {
			if o.parent == m && o.kind > unexplained {
				points = append(points, point{strings.TrimPrefix(o.GetMountpoint(), m.GetMountpoint()+"/"), o.added, o.dir})
			}
		}
		data, contents, err := v.repack(name, m.GetMountpoint(), points)
		if err != nil {
			return err
		}
		m.contents = contents
		v.report.replace(name, data)
	}
	for _, name := range v.images.Names() {
		// The files of a masked directory are none: CRIU does not read its archive.
		if strings.HasPrefix(name, "tmpfs-") && !known[name] && !slices.ContainsFunc(tree.maskArchives, func(n string) bool { return n == name }) {
			v.refuse(Finding{Check: "mounts", Object: "image " + name, Field: "name", Found: "files of a tmpfs", Allowed: "those of the pod's tmpfs mounts"})
		}
	}
	return nil
}

// point is a mount point in a tmpfs. One that is added is made if there is nothing.
type point struct {
	path       string
	added, dir bool
}

// archive is an archive that is written anew.
type archive struct {
	v        *verifier
	name, at string
	// seen are the types of the entries by path.
	seen    map[string]byte
	devices map[device]place.Node
	left    int64
	// contents are what it has, as others look for it.
	contents *place.Contents
}

// repack reads the archive of the tmpfs at a path strictly and returns what CRIU is to read.
// points are the mount points in it.
func (v *verifier) repack(name, at string, points []point) ([]byte, *place.Contents, error) {
	malformed := func(why string) error {
		return fmt.Errorf("CRIU image %.200q: the files of the tmpfs at %.200q: %s: %w", name, at, why, errdefs.ErrInvalidArgument)
	}
	f, err := v.images.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return nil, nil, malformed("they are no gzip archive")
	}
	in := tar.NewReader(io.LimitReader(unzipped, maxTmpfsArchive))
	var buf bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		return nil, nil, err
	}
	out := tar.NewWriter(zipped)
	a := &archive{v: v, name: name, at: at, seen: map[string]byte{}, devices: devices(v.spec), left: maxTmpfs}
	a.contents = &place.Contents{Links: map[string]string{}, Nodes: map[string]place.Node{}, Names: map[string]bool{}}
	for n := 0; ; n++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, malformed("they cannot be read")
		}
		if n == maxTmpfsEntries {
			return nil, nil, malformed(fmt.Sprintf("there are more than %d", maxTmpfsEntries))
		}
		if why := a.check(h); why != "" {
			return nil, nil, malformed(fmt.Sprintf("%.200q: %s", h.Name, why))
		}
		if err := v.step(1); err != nil {
			return nil, nil, err
		}
		a.note(h)
		clean, ok := a.grant(h)
		if !ok {
			continue
		}
		if err := out.WriteHeader(clean); err != nil {
			return nil, nil, malformed(fmt.Sprintf("%.200q cannot be written again", h.Name))
		}
		if _, err := io.CopyN(out, in, clean.Size); err != nil {
			return nil, nil, malformed(fmt.Sprintf("%.200q cannot be read", h.Name))
		}
	}
	for _, p := range points {
		if err := a.make(out, p); err != nil {
			return nil, nil, malformed(fmt.Sprintf("mount point %.200q cannot be made", p.path))
		}
		if why := a.point(p.path); why != "" {
			return nil, nil, malformed(fmt.Sprintf("mount point %.200q %s", path.Join(at, p.path), why))
		}
	}
	if err := errors.Join(out.Close(), zipped.Close()); err != nil {
		return nil, nil, fmt.Errorf("CRIU image %s: %w", name, err)
	}
	return buf.Bytes(), a.contents, nil
}

// check says what is wrong with an entry that CRIU's tar would not have written, or not so.
func (a *archive) check(h *tar.Header) string {
	p := path.Clean(h.Name)
	if h.Name != "./" && strings.TrimSuffix(h.Name, "/") != "./"+p || p == ".." || strings.HasPrefix(p, "../") || path.IsAbs(p) {
		return "its name is not a clean one below the archive's root"
	}
	if _, ok := a.seen[p]; ok {
		return "it is there twice"
	}
	if p != "." && path.Dir(p) != "." && a.seen[path.Dir(p)] != tar.TypeDir {
		return "it is not in a directory of the archive"
	}
	if (p == ".") != (h.Name == "./") || p == "." && h.Typeflag != tar.TypeDir {
		return "the archive's root is not a directory"
	}
	for key := range h.PAXRecords {
		switch key {
		case "path", "linkpath", "size", "uid", "gid", "mtime", "atime", "ctime":
		default:
			return fmt.Sprintf("it has %.100q, which CRIU does not record", key)
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		if a.left -= h.Size; h.Size < 0 || a.left < 0 {
			return fmt.Sprintf("the files have more than %d bytes", maxTmpfs)
		}
	case tar.TypeDir, tar.TypeSymlink, tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
	case tar.TypeLink:
		if a.seen[path.Clean(h.Linkname)] != tar.TypeReg || path.IsAbs(h.Linkname) {
			return "it is a link to no file of the archive"
		}
	default:
		return fmt.Sprintf("it has type %q", h.Typeflag)
	}
	a.seen[p] = h.Typeflag
	if h.Typeflag == tar.TypeGNUSparse {
		a.seen[p] = tar.TypeReg
	}
	return ""
}

// note keeps what matters to who looks for a path.
func (a *archive) note(h *tar.Header) {
	p := path.Clean(h.Name)
	a.contents.Names[p] = true
	switch h.Typeflag {
	case tar.TypeSymlink:
		a.contents.Links[p] = h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		// One that was not granted has no mode: only a capability would open it. It is refused.
		a.contents.Nodes[p] = a.devices[deviceOf(h)]
	}
}

func deviceOf(h *tar.Header) device {
	d := device{'c', h.Devmajor, h.Devminor}
	if h.Typeflag == tar.TypeBlock {
		d.kind = 'b'
	}
	return d
}

// grant returns the header that tar is to read, unless it is more than the pod was granted.
func (a *archive) grant(h *tar.Header) (*tar.Header, bool) {
	clean := &tar.Header{
		Typeflag: a.seen[path.Clean(h.Name)], Name: h.Name, Linkname: h.Linkname, Mode: h.Mode & 0o1777, Uid: h.Uid, Gid: h.Gid,
		ModTime: h.ModTime.Truncate(time.Second), Devmajor: h.Devmajor, Devminor: h.Devminor,
	}
	if h.Typeflag == tar.TypeLink {
		clean.Linkname = "./" + path.Clean(h.Linkname) // as it was compared
	}
	object := "mount " + a.at
	switch clean.Typeflag {
	case tar.TypeReg:
		clean.Size = h.Size
		fallthrough
	case tar.TypeFifo, tar.TypeLink:
		if h.Mode&0o6000 != 0 {
			a.v.refuse(Finding{Check: "mounts", Object: object, Field: "file mode", Found: fmt.Sprintf("%s with mode %o", h.Name, h.Mode), Allowed: "no setuid or setgid files"})
			return nil, false
		}
	case tar.TypeDir:
		clean.Mode |= h.Mode & 0o2000 // files in it belong to its group
	case tar.TypeChar, tar.TypeBlock:
		d := deviceOf(h)
		may, ok := a.devices[d]
		if !ok {
			a.v.refuse(Finding{Check: "mounts", Object: object, Field: "device", Found: fmt.Sprintf("%s, %s", h.Name, d), Allowed: "the pod's devices",
				Remedy: "give the pod the devices that it had when the checkpoint was taken"})
			return nil, false
		}
		// Who may open it is as the pod was granted it.
		clean.Mode, clean.Uid, clean.Gid = int64(may.Mode), int(may.UID), int(may.GID)
	}
	return clean, true
}

// make adds what is missing of a mount point, as runc makes it in a new container.
func (a *archive) make(out *tar.Writer, p point) error {
	if !p.added {
		return nil
	}
	for i := 1; i <= len(p.path); i++ {
		if i < len(p.path) && p.path[i] != '/' {
			continue
		}
		name := p.path[:i]
		if _, ok := a.seen[name]; ok {
			continue
		}
		h := &tar.Header{Typeflag: tar.TypeDir, Name: "./" + name + "/", Mode: 0o755}
		if name == p.path && !p.dir {
			h.Typeflag, h.Name = tar.TypeReg, "./"+name
		}
		a.seen[name], a.contents.Names[name] = h.Typeflag, true
		if err := out.WriteHeader(h); err != nil {
			return err
		}
	}
	return nil
}

// point says why something cannot be mounted at a path of the archive: a link could lead the mount elsewhere.
func (a *archive) point(p string) string {
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if a.seen[dir] != tar.TypeDir {
			return "is not in a directory"
		}
	}
	if t := a.seen[p]; t != tar.TypeDir && t != tar.TypeReg {
		return "is neither a directory nor a file"
	}
	return ""
}
