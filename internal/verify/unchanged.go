package verify

import (
	"errors"
	"fmt"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// unchanged checks that the files of the root file system which processes have open are as they were, as far as CRIU
// compares them when it opens them (criu/files-reg.c, open_path): type and mode, and the size unless it was open
// for appending.
//
// The error is of class errdefs.ErrFailedPrecondition: the restore would fail.
func (c *container) unchanged() error {
	standsIn := map[uint32]bool{}
	for _, r := range c.remaps {
		standsIn[r.GetOrigId()] = true
	}
	var found []string
	for _, f := range c.files {
		p, ok := c.places[f]
		if f.kind != fdinfo.FdTypes_REG || !ok || p.Mount.Kind != place.Root || standsIn[f.GetId()] { // CRIU makes it
			continue
		}
		if err := c.step(1); err != nil {
			return err
		}
		if why := difference(p, f); why != "" {
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
func difference(p place.Place, f *openFile) string {
	st, err := p.Stat()
	if errors.Is(err, place.ErrAbsent) {
		return "is not in the root file system"
	}
	if err != nil {
		return err.Error()
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
