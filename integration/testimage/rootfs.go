package testimage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n"
	group  = "root:x:0:\napp:x:1000:\n"
)

// rootFS returns the root file system as a tar stream. Entries come in a fixed
// order and carry the epoch as their time, so that the digest depends on nothing
// but busybox and the options.
func rootFS(opts Options, applets []string) (io.ReadCloser, error) {
	busybox, err := os.ReadFile(opts.Busybox)
	if err != nil {
		return nil, fmt.Errorf("busybox: %w", err)
	}
	files := maps.Clone(opts.Files)
	if files == nil {
		files = map[string]string{}
	}
	files["/etc/passwd"], files["/etc/group"] = passwd, group
	for _, name := range DataFiles {
		files[name] = name + "\n"
	}

	var buf bytes.Buffer
	w := &writer{tar: tar.NewWriter(&buf), dirs: map[string]bool{"/": true, ".": true}}
	for _, dir := range []string{"/bin", "/data", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/var"} {
		w.dir(dir, 0o755, 0)
	}
	w.dir("/home/app", 0o755, UID)
	w.dir("/tmp", 0o1777, 0)
	w.file("/bin/busybox", 0o755, busybox)
	for _, applet := range applets {
		w.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}, nil)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w.file(name, 0o644, []byte(files[name]))
	}
	if w.err == nil {
		w.err = w.tar.Close()
	}
	if w.err != nil {
		return nil, fmt.Errorf("root file system of the busybox image: %w", w.err)
	}
	return io.NopCloser(&buf), nil
}

// writer writes a tar archive and keeps the first error.
type writer struct {
	tar  *tar.Writer
	dirs map[string]bool
	err  error
}

func (w *writer) dir(name string, mode int64, owner int) {
	if w.dirs[name] {
		return
	}
	w.dirs[name] = true
	w.dir(path.Dir(name), 0o755, 0)
	w.add(&tar.Header{Typeflag: tar.TypeDir, Name: relative(name) + "/", Mode: mode, Uid: owner, Gid: owner}, nil)
}

func (w *writer) file(name string, mode int64, content []byte) {
	if w.err == nil && (!path.IsAbs(name) || path.Clean(name) != name) {
		w.err = fmt.Errorf("file %q: want a clean absolute path", name)
	}
	w.dir(path.Dir(name), 0o755, 0)
	w.add(&tar.Header{Typeflag: tar.TypeReg, Name: relative(name), Mode: mode, Size: int64(len(content))}, content)
}

func (w *writer) add(header *tar.Header, content []byte) {
	if w.err != nil {
		return
	}
	header.ModTime = time.Unix(0, 0)
	if w.err = w.tar.WriteHeader(header); w.err == nil {
		_, w.err = w.tar.Write(content)
	}
}

func relative(name string) string { return strings.TrimPrefix(name, "/") }
