package verify

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// regular checks a file that CRIU opens by its path (criu/files-reg.c, open_path). It is opened in
// the mount namespace of the container, with all rights of root.
func (o *openFiles) regular(f *openFile) error {
	r := f.GetReg()
	if r.GetExt() {
		o.refuse(Finding{Check: "files", Object: f.String(), Field: "ext", Found: "an external file", Allowed: "files of the container"})
		return nil
	}
	if r.Mode == nil || r.GetMode()&^uint32(unix.S_IFMT|0o7777) != 0 {
		return malformed(filesImage, "file %d: it has no mode", f.GetId())
	}
	if err := o.name(f, r.GetName(), r.MntId); err != nil {
		return err
	}
	o.kernelFile(f, r.GetName(), r.GetMode())
	return nil
}

// name checks the path of a file and that the file is in its mount. CRIU writes paths as the kernel
// names them: absolute and clean. It then cuts off the first byte and opens the rest below
// the root of the container, which "..", or a second slash, would leave.
func (o *openFiles) name(f *openFile, name string, mount *int32) error {
	switch {
	case !strings.HasPrefix(name, "/") || path.Clean(name) != name || strings.ContainsRune(name, 0) || len(name) >= 4096:
		return malformed(filesImage, "file %d: path %.200q is not absolute and clean", f.GetId(), name)
	case mount == nil || o.mounts[*mount] == "":
		return malformed(filesImage, "file %d: it is in no mount of the container", f.GetId())
	case !below(o.mounts[*mount], name):
		return malformed(filesImage, "file %d: path %.200q is not in the mount at %.200q", f.GetId(), name, o.mounts[*mount])
	}
	// CRIU would take a file with the name of a descriptor that runc hands to it from there
	// (criu/files.c, inherited_fd; runc: libcontainer/criu_linux.go).
	for _, reserved := range []string{"/extRoot", "/pipe:["} {
		if strings.HasPrefix(name, reserved) {
			o.refuse(Finding{Check: "files", Object: f.String(), Field: "name", Found: name, Allowed: "no name that runc uses for its own descriptors"})
		}
	}
	return nil
}

// below says whether a clean path is in a directory, or the directory itself.
func below(dir, name string) bool {
	return dir == "/" || name == dir || strings.HasPrefix(name, dir+"/")
}

// writable says whether the spec lets a process change the directory that a path is in.
func (o *openFiles) writable(name string) bool {
	at, readonly := "/", o.spec.Root.Readonly
	for _, m := range o.spec.Mounts {
		dst := path.Join("/", m.Destination)
		if !below(dst, name) || len(dst) < len(at) {
			continue
		}
		at, readonly = dst, false
		for _, option := range m.Options {
			switch option {
			case "ro", "rro":
				readonly = true
			case "rw", "rrw":
				readonly = false
			}
		}
	}
	for _, dst := range append(o.spec.Linux.ReadonlyPaths, o.spec.Linux.MaskedPaths...) {
		if below(path.Join("/", dst), name) {
			return false
		}
	}
	return !readonly
}

func octal(mode uint32) string { return fmt.Sprintf("%#o", mode) }
