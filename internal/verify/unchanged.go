package verify

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// Unchanged checks that the files of the root file system which processes have open are as they were, as far as CRIU
// compares them when it opens them (criu/files-reg.c, open_path): type and mode, and the size unless it was open
// for appending. root is where the root file system is mounted, with the checkpoint's changes.
//
// The error is of class errdefs.ErrFailedPrecondition: the restore would fail.
func Unchanged(images *criu.Images, root string) error {
	o, err := rootFiles(images)
	if err != nil {
		return err
	}
	if err := o.readRemaps(); err != nil {
		return err
	}
	standsIn := map[uint32]bool{}
	for _, r := range o.remaps {
		standsIn[r.GetOrigId()] = true
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("root file system of the new container: %w", err)
	}
	defer dir.Close()
	var found []string
	for _, f := range o.files {
		if !o.inRoot(f) || standsIn[f.GetId()] { // CRIU makes it
			continue
		}
		if why := difference(dir, f); why != "" {
			found = append(found, fmt.Sprintf("%s %s", printable(f.GetReg().GetName()), why))
		}
	}
	if len(found) == 0 {
		return nil
	}
	more := ""
	if len(found) > maxShown {
		more = fmt.Sprintf("; and %d more", len(found)-maxShown)
		found = found[:maxShown]
	}
	return fmt.Errorf("open files are not as they were when the checkpoint was taken: %s%s: the checkpoint lacks the change, or the base image is another one: %w",
		strings.Join(found, "; "), more, errdefs.ErrFailedPrecondition)
}

// difference says what differs, "" if nothing does.
func difference(dir *os.Root, f *openFile) string {
	name := strings.TrimPrefix(f.GetReg().GetName(), "/")
	if name == "" {
		name = "."
	}
	info, err := dir.Lstat(name)
	if errors.Is(err, os.ErrNotExist) {
		return "is not in the root file system"
	}
	if err != nil {
		return err.Error()
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "cannot be examined"
	}
	r := f.GetReg()
	if st.Mode != r.GetMode() {
		return fmt.Sprintf("has mode %s and had %s", octal(st.Mode), octal(r.GetMode()))
	}
	if r.Size != nil && st.Mode&unix.S_IFMT == unix.S_IFREG && uint64(st.Size) != r.GetSize() {
		return fmt.Sprintf("has %d bytes and had %d", st.Size, r.GetSize())
	}
	return ""
}
