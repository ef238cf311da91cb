package verify

import (
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/tty"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// terminalCase is a terminal with its device file, and the image that says what it is.
func terminalCase(kind tty.TtyType, rdev uint32, name string, mode uint32, mount int32, index uint32) filesCase {
	device := criutest.Regular(10, name, mode, func(e *regfile.RegFileEntry) { e.MntId, e.Flags = &mount, proto.Uint32(2) })
	info := &tty.TtyInfoEntry{
		Id: proto.Uint32(0), Type: &kind, Locked: proto.Bool(false), Exclusive: proto.Bool(false), PacketMode: proto.Bool(false),
		Sid: proto.Uint32(1), Pgrp: proto.Uint32(1), Rdev: &rdev, Uid: proto.Uint32(0), Gid: proto.Uint32(5),
	}
	if kind == tty.TtyType_PTY {
		info.Pty = &tty.TtyPtyEntry{Index: &index}
	}
	return filesCase{
		files: []*fdinfo.FileEntry{device, {Type: fdinfo.FdTypes_TTY.Enum(), Id: proto.Uint32(9), Tty: &tty.TtyFileEntry{
			Id: proto.Uint32(9), TtyInfoId: proto.Uint32(0), Flags: proto.Uint32(2), Fown: criutest.NoOwner(), RegfId: proto.Uint32(10),
		}}},
		images: map[string]string{ttyImage: criutest.Image("TTY_INFO", info)},
	}
}

// TestTerminals: CRIU gives the file at the path of a terminal mode and owner, whatever it is.
func TestTerminals(t *testing.T) {
	const character = 0o20620
	finds := func(c filesCase, finds string) filesCase { c.finds = finds; return c }
	invalid := func(c filesCase, why string) filesCase { c.invalid = why; return c }
	slave := func(name string) filesCase {
		return terminalCase(tty.TtyType_PTY, 136<<8, name, character, criutest.PtsMount, 0)
	}
	data := func(id uint32) filesCase {
		c := slave("/dev/pts/0")
		c.images["tty-data.img"] = criutest.Image("TTY_DATA", &tty.TtyDataEntry{TtyId: &id, Data: []byte("typed")})
		return c
	}
	noInfo, noDevice := slave("/dev/pts/0"), slave("/dev/pts/0")
	noInfo.images = nil
	noDevice.files[1].Tty.RegfId = nil
	testFiles(t, map[string]filesCase{
		"the container's":   slave("/dev/pts/0"),
		"master":            terminalCase(tty.TtyType_PTY, 5<<8|2, "/dev/pts/ptmx", character, criutest.PtsMount, 0),
		"the own":           terminalCase(tty.TtyType_CTTY, 5<<8, "/dev/tty", character, criutest.DevMount, 0),
		"with data":         data(0),
		"data of none":      invalid(data(7), "there is no terminal 7"),
		"any file":          finds(terminalCase(tty.TtyType_PTY, 136<<8, "/data/file", character, criutest.RootMount, 0), "at /data/file"),
		"another's number":  finds(slave("/dev/pts/1"), "at /dev/pts/1"),
		"set-user-ID":       invalid(terminalCase(tty.TtyType_PTY, 136<<8, "/dev/pts/0", 0o24755, criutest.PtsMount, 0), "its device is missing"),
		"no device":         invalid(terminalCase(tty.TtyType_PTY, 136<<8, "/dev/pts/0", 0o100644, criutest.PtsMount, 0), "its device is missing"),
		"a virtual console": finds(terminalCase(tty.TtyType_VT, 4<<8|1, "/dev/tty1", character, criutest.DevMount, 0), "VT 4:1"),
		"the console":       finds(terminalCase(tty.TtyType_CONSOLE, 5<<8|1, "/dev/console", character, criutest.DevMount, 0), "CONSOLE 5:1"),
		"a serial line":     finds(terminalCase(tty.TtyType_SERIAL, 188<<8, "/dev/ttyUSB0", character, criutest.DevMount, 0), "SERIAL 188:0"),
		"external":          finds(terminalCase(tty.TtyType_EXT_TTY, 136<<8, "/dev/pts/0", character, criutest.PtsMount, 0), "EXT_TTY"),
		"of another type":   finds(terminalCase(tty.TtyType_CTTY, 4<<8|1, "/dev/tty", character, criutest.DevMount, 0), "CTTY 4:1"),
		"number too large":  invalid(terminalCase(tty.TtyType_PTY, 136<<8, "/dev/pts/5000", character, criutest.PtsMount, 5000), "too large"),
		"not described":     invalid(noInfo, "its device is missing"),
		"without a device":  invalid(noDevice, "its device is missing"),
	})
}
