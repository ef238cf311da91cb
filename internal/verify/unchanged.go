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

// unchanged checks that the files of the root file system and of volumes which processes have open are as they were, as far as CRIU
// compares them when it opens them (criu/files-reg.c, open_path): type and mode, and the size unless it was open
// for appending. What is watched has to be there.
//
// The error is of class errdefs.ErrFailedPrecondition: the restore would fail.
func (c *container) unchanged() error {
	standsIn := map[uint32]bool{}
	for _, r := range c.remaps {
		standsIn[r.GetOrigId()] = true
	}
	var inRoot, inVolumes []string
	for _, f := range c.files {
		if err := c.step(1); err != nil {
			return err
		}
		for _, w := range c.entry(f).GetIfy().GetWd() {
			name := w.GetFHandle().GetPath()
			if p := c.table.At(name); name != "" && isIn(p, place.Volume) {
				if _, err := p.Stat(); errors.Is(err, place.ErrAbsent) {
					inVolumes = append(inVolumes, printable(name)+", which is watched, is not there")
				}
			}
		}
		p, ok := c.places[f]
		if f.kind != fdinfo.FdTypes_REG || !ok || standsIn[f.GetId()] { // CRIU makes it
			continue
		}
		switch why := c.difference(p, f); {
		case why == "":
		case isIn(p, place.Root):
			inRoot = append(inRoot, fmt.Sprintf("%s %s", printable(p.Path), why))
		case isIn(p, place.Volume):
			inVolumes = append(inVolumes, fmt.Sprintf("%s %s", printable(p.Path), why))
		}
	}
	const what = "open files are not as they were when the checkpoint was taken"
	if len(inRoot) > 0 {
		return fmt.Errorf("%s: %s: the checkpoint lacks the change, or the base image is another one: %w", what, listed(inRoot), errdefs.ErrFailedPrecondition)
	}
	if len(inVolumes) > 0 {
		return fmt.Errorf("%s: %s: they are in volumes, of which a checkpoint has no content: mount volumes that have them, "+
			"or take the checkpoint while the container does not have them open: %w", what, listed(inVolumes), errdefs.ErrFailedPrecondition)
	}
	return nil
}

func isIn(p place.Place, kind place.Kind) bool { return p.Mount.Kind == kind && !p.Covered() }

// listed joins the first few of them.
func listed(all []string) string {
	more := ""
	if len(all) > maxShown {
		more = fmt.Sprintf("; and %d more", len(all)-maxShown)
	}
	return strings.Join(all[:min(len(all), maxShown)], "; ") + more
}

// difference says what differs, "" if nothing does.
func (c *container) difference(p place.Place, f *openFile) string {
	st, err := p.Stat()
	if errors.Is(err, place.ErrAbsent) {
		return "is not there"
	}
	if err != nil {
		return err.Error()
	}
	r := c.entry(f).GetReg()
	if st.Mode != r.GetMode() {
		return fmt.Sprintf("has mode %s and had %s", octal(st.Mode), octal(r.GetMode()))
	}
	if r.Size != nil && st.Mode&unix.S_IFMT == unix.S_IFREG && uint64(st.Size) != r.GetSize() {
		return fmt.Sprintf("has %d bytes and had %d", st.Size, r.GetSize())
	}
	return ""
}
