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
	return o.name(f, r.GetName())
}

// name checks the form of a path. CRIU writes paths as the kernel
// names them: absolute and clean. It then cuts off the first byte and opens the rest below
// the root of the container, which "..", or a second slash, would leave.
func (o *openFiles) name(f *openFile, name string) error {
	if err := cleanName(f, name); err != nil {
		return err
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

// maxName is PATH_MAX, with the byte at the end.
const maxName = unix.PathMax

func cleanName(f *openFile, name string) error {
	if !strings.HasPrefix(name, "/") || len(name) >= maxName || path.Clean(name) != name || strings.ContainsRune(name, 0) {
		return malformed(filesImage, "file %d: path %.200q is not absolute and clean", f.GetId(), name)
	}
	return nil
}

func octal(mode uint32) string { return fmt.Sprintf("%#o", mode) }
