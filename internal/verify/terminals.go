package verify

import (
	"fmt"
	"path"
	"strconv"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/tty"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/verify/place"
)

const ttyImage = "tty-info.img"

// Device numbers of terminals (Linux: Documentation/admin-guide/devices.txt).
const (
	ttyAux       = 5 // minor 0: the own terminal, 2: a new one
	ptySlaves    = 136
	ptySlavesEnd = 143
	ptyMasters   = 128
)

// terminals checks terminals. CRIU gives the file at their path the mode and the owner that the images
// say (criu/tty.c, do_open_tty_reg and restore_tty_params), so that the path has to be one of the container's devpts.
func (o *openFiles) terminals() error {
	infos := map[uint32]*tty.TtyInfoEntry{}
	if _, ok := o.images.Size(ttyImage); ok {
		entries, err := criu.Entries[*tty.TtyInfoEntry](o.images, ttyImage, "TTY_INFO")
		if err != nil {
			return err
		}
		for _, e := range entries {
			// CRIU counts in bitmaps of this size.
			if infos[e.GetId()] != nil || e.GetId() >= 2*1088 || e.GetPty().GetIndex() > 1000 {
				return malformed(ttyImage, "terminal %d is listed twice, or its number is too large", e.GetId())
			}
			infos[e.GetId()] = e
		}
	}
	for _, f := range o.files {
		if f.kind != fdinfo.FdTypes_TTY {
			continue
		}
		info, reg := infos[f.GetTty().GetTtyInfoId()], o.byID[f.GetTty().GetRegfId()]
		if info == nil || f.GetTty().RegfId == nil || reg == nil || reg.kind != fdinfo.FdTypes_REG || reg.GetReg().GetMode()&^uint32(0o777) != unix.S_IFCHR {
			return malformed(filesImage, "terminal %d: its device is missing", f.GetId())
		}
		if !isTerminal(info, reg.GetReg().GetName()) {
			o.refuse(Finding{Check: "files", Object: f.String(), Field: "terminal",
				Found:   fmt.Sprintf("%s %d:%d at %s", info.GetType(), deviceMajor(info), deviceMinor(info), reg.GetReg().GetName()),
				Allowed: "pseudoterminals of the container's /dev/pts, and /dev/tty"})
		}
	}
	return o.terminalData(infos)
}

func deviceMajor(e *tty.TtyInfoEntry) uint32 { return unix.Major(uint64(e.GetRdev())) }
func deviceMinor(e *tty.TtyInfoEntry) uint32 { return unix.Minor(uint64(e.GetRdev())) }

// isTerminal says whether device number, which is what CRIU goes by (get_tty_driver), type and path agree.
func isTerminal(e *tty.TtyInfoEntry, name string) bool {
	major, minor := deviceMajor(e), deviceMinor(e)
	switch {
	case major == ttyAux && minor == 0:
		return e.GetType() == tty.TtyType_CTTY && name == "/dev/tty"
	case major == ttyAux && minor == 2, major >= ptyMasters && major < ptySlaves:
		return e.GetType() == tty.TtyType_PTY && (name == "/dev/ptmx" || name == "/dev/pts/ptmx")
	case major >= ptySlaves && major <= ptySlavesEnd:
		return e.GetType() == tty.TtyType_PTY && name == path.Join("/dev/pts", strconv.Itoa(int(e.GetPty().GetIndex())))
	}
	return false
}

// ttys checks where terminals are: the names that they may have have to be of the container's own terminals.
func (c *container) ttys() error {
	for _, f := range c.files {
		if f.kind != fdinfo.FdTypes_TTY {
			continue
		}
		reg := c.byID[f.GetTty().GetRegfId()]
		p, ok := c.places[reg]
		if !ok || !place.Below("/dev", p.Path) {
			continue // refused
		}
		if kind := p.Mount.Kind; kind != place.Devpts && (kind != place.Tmpfs || path.Dir(p.Path) != "/dev") {
			c.refuse(Finding{Check: "files", Object: f.String(), Field: "terminal", Found: p.Path + " in the mount at " + p.Mount.At,
				Allowed: "terminals of the container's own /dev"})
		}
	}
	return nil
}

// terminalData checks what was typed and not read.
func (o *openFiles) terminalData(infos map[uint32]*tty.TtyInfoEntry) error {
	const image = "tty-data.img"
	if _, ok := o.images.Size(image); !ok {
		return nil
	}
	entries, err := criu.Entries[*tty.TtyDataEntry](o.images, image, "TTY_DATA")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if infos[e.GetTtyId()] == nil {
			return malformed(image, "there is no terminal %d", e.GetTtyId())
		}
	}
	return nil
}
