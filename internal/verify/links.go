package verify

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// Links checks the paths of open files in the container's root file system, which is mounted at
// root and has the checkpoint's changes. It is to be asked after [Images].
//
// CRIU opens files as root of the host, partly from outside the container, while it holds descriptors of the
// host's files (its image directory, procfs). A symbolic link on the way would lead it out: an absolute one when it
// makes a deleted file anew (criu/files-reg.c, create_ghost), one to /proc/self/fd at any time. The paths that
// CRIU has dumped are the kernel's, which has resolved every link.
func Links(images *criu.Images, spec *specs.Spec, root string) (*Report, error) {
	v := &verifier{images: images, spec: spec}
	var err error
	if v.processes, err = images.Processes(); err != nil {
		return &v.report, err
	}
	o := &openFiles{verifier: v, mounts: map[int32]string{}}
	if err := errors.Join(o.readFiles(), o.readMounts()); err != nil {
		return &v.report, err
	}
	dir, err := place.OpenDir(root)
	if err != nil {
		return &v.report, fmt.Errorf("root file system of the new container: %w", err)
	}
	defer dir.Close()
	trees := map[string]linkTree{}
	for _, at := range o.mounts {
		trees[at] = noLinks{} // another file system: see openFiles.links
	}
	trees["/"] = hostDir{dir}
	o.follow(trees)
	return &v.report, nil
}

// links does the same for the volumes, and for the files that CRIU unpacks into a tmpfs. A volume that another
// container writes to can change until CRIU opens it.
func (o *openFiles) links() error {
	trees := map[string]linkTree{}
	for _, e := range o.mountEntries {
		at := path.Join("/", e.GetMountpoint())
		trees[at] = noLinks{}
		if e.GetExtKey() != "" || e.GetFstype() != uint32(mnt.Fstype_TMPFS) {
			continue
		}
		name := fmt.Sprintf("tmpfs-dev-%d.tar.gz.img", e.GetRootDev())
		if _, ok := o.images.Size(name); !ok {
			continue
		}
		links, err := o.archivedLinks(name)
		if err != nil {
			return err
		}
		trees[at] = links
	}
	for _, m := range o.spec.Mounts {
		// A volume that is not there any more, or is a file, has no links.
		if m.Source == "" {
			continue
		}
		if dir, err := place.OpenDir(m.Source); err == nil {
			defer dir.Close()
			trees[path.Join("/", m.Destination)] = hostDir{dir}
		}
	}
	trees["/"] = noLinks{} // it is not there yet: see Links
	o.follow(trees)
	return nil
}

// linkTree is a file system in which there may be symbolic links.
type linkTree interface {
	// readlink returns where a path leads, or no target if it is no link.
	readlink(name string) (target string)
}

type noLinks struct{}

func (noLinks) readlink(string) string { return "" }

// hostDir is a directory of the host.
type hostDir struct{ dir *place.Dir }

func (d hostDir) readlink(name string) string { return d.dir.Readlink(name) }

// archiveLinks are the links of an archive.
type archiveLinks map[string]string

func (a archiveLinks) readlink(name string) string { return a[name] }

// archivedLinks reads the links in the archive of a tmpfs.
func (o *openFiles) archivedLinks(name string) (archiveLinks, error) {
	f, err := o.images.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return nil, malformed(name, "it is no gzip archive")
	}
	links := archiveLinks{}
	for r, n := tar.NewReader(io.LimitReader(unzipped, maxTmpfsArchive)), 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return links, nil
		}
		if err != nil || n > maxTmpfsEntries {
			return nil, malformed(name, "it cannot be read, or has more than %d entries", maxTmpfsEntries)
		}
		if h.Typeflag == tar.TypeSymlink {
			links[path.Clean(h.Name)] = h.Linkname
		}
	}
}

// follow walks along the path of every file.
func (o *openFiles) follow(trees map[string]linkTree) {
	for _, f := range o.files {
		switch f.kind {
		case fdinfo.FdTypes_REG:
			nofollow := f.flags&unix.O_NOFOLLOW != 0 && f.GetReg().GetMode()&unix.S_IFMT == unix.S_IFLNK
			o.noLink(trees, f, f.GetReg().GetName(), nofollow)
		case fdinfo.FdTypes_INOTIFY:
			for _, w := range f.GetIfy().GetWd() {
				o.noLink(trees, f, w.GetFHandle().GetPath(), false)
			}
		case fdinfo.FdTypes_UNIXSK:
			// This is as the process has written it, and looked for in the container: it may lead through links, but not out.
			name := string(f.GetUsk().GetName())
			if name == "" || name[0] == 0 {
				continue
			}
			name = f.GetUsk().GetNameDir() + "/" + strings.TrimRight(name, "\x00")
			end, _, err := walk(trees, name, true)
			if kind, _ := o.filesystem(end); err != nil || kind == unix.PROC_SUPER_MAGIC || inProc(end) >= 0 {
				o.refuse(Finding{Check: "files", Object: f.String(), Field: "name", Found: "a path to " + end, Allowed: "a path outside procfs"})
			}
		}
	}
}

// noLink refuses a path that leads through a symbolic link. Only the file itself may be one.
func (o *openFiles) noLink(trees map[string]linkTree, f *openFile, name string, itself bool) {
	end, link, _ := walk(trees, name, false)
	if link && (!itself || end != name) {
		o.refuse(Finding{Check: "files", Object: f.String(), Field: "name", Found: "a path through the symbolic link " + end, Allowed: "paths of directories and files",
			Remedy: "do not replace what was a directory or a file by a link"})
	}
}

var errLinks = fmt.Errorf("too many symbolic links: %w", fs.ErrInvalid)

// walk goes along a path and returns where it ends: behind all links, or at the first one.
func walk(trees map[string]linkTree, name string, through bool) (end string, link bool, err error) {
	const most = 40 // as in Linux (MAXSYMLINKS)
	end = "/"
	todo := strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		element := todo[0]
		todo = todo[1:]
		next := path.Join(end, element) // the parent, for ".."
		target := ""
		if element != "" && element != "." && element != ".." {
			target = linkAt(trees, next)
		}
		if target == "" {
			end = next
			continue
		}
		if !through {
			return next, true, nil
		}
		if links++; links > most {
			return next, true, errLinks
		}
		if path.IsAbs(target) {
			end = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return end, false, nil
}

// linkAt returns the target of the link at a clean path, in whichever file system that is.
func linkAt(trees map[string]linkTree, name string) string {
	if trees[name] != nil {
		return "" // a mount point
	}
	for at := path.Dir(name); ; at = path.Dir(at) {
		if t := trees[at]; t != nil {
			return t.readlink(strings.TrimPrefix(strings.TrimPrefix(name, at), "/"))
		}
		if at == "/" {
			return ""
		}
	}
}
