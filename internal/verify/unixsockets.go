package verify

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	sk_packet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-packet"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// States of a Unix socket, in the numbers of TCP.
const (
	socketEstablished = 1
	socketClosed      = 7
	socketListens     = 10
)

func (o *openFiles) unixSocket(f *openFile) error {
	e := f.GetUsk()
	// Bits of criu/sk-unix.c: the other end is not in the checkpoint, CRIU's own service, a plugin's.
	if e.GetUflags() != 0 {
		o.refuse(Finding{Check: "files", Object: f.String(), Field: "uflags", Found: fmt.Sprintf("%#x, an external socket", e.GetUflags()),
			Allowed: "sockets whose other end is in the checkpoint", Remedy: "close connections to other containers and the node before the checkpoint"})
	}
	if e.GetIno() == 0 || !slices.Contains([]uint32{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET}, e.GetType()) ||
		!slices.Contains([]uint32{socketEstablished, socketClosed, socketListens}, e.GetState()) {
		return malformed(filesImage, "socket %d: type %d, state %d", f.GetId(), e.GetType(), e.GetState())
	}
	if err := o.socketOptions(f, e.GetOpts(), e.GetNsId()); err != nil {
		return err
	}
	if err := o.socketOwner(f); err != nil {
		return err
	}
	return o.socketName(f)
}

// socketOwner checks whose the socket becomes at its path, where others may trust it for that: CRIU gives it to
// whomever the image says (criu/sk-unix.c, restore_file_perms).
func (o *openFiles) socketOwner(f *openFile) error {
	e := f.GetUsk().GetFilePerms()
	if e == nil {
		return nil
	}
	if mode := e.GetMode(); mode&^uint32(unix.S_IFSOCK|0o1777) != 0 {
		return malformed(filesImage, "socket %d: mode %s", f.GetId(), octal(mode))
	}
	const remedy = "set runAsUser, runAsGroup, supplementalGroups and fsGroup as in the pod that was checkpointed"
	user := o.spec.Process.User
	if uid := e.GetUid(); uid != user.UID && !o.could("CAP_CHOWN") && !o.could("CAP_SETUID") {
		o.refuse(Finding{Check: "files", Object: f.String(), Field: "owner", Found: fmt.Sprint(uid), Allowed: fmt.Sprint(user.UID), Remedy: remedy})
	}
	if gid := e.GetGid(); gid != user.GID && !slices.Contains(user.AdditionalGids, gid) && !o.could("CAP_CHOWN") && !o.could("CAP_SETGID") {
		o.refuse(Finding{Check: "files", Object: f.String(), Field: "group", Found: fmt.Sprint(gid), Allowed: list(append([]uint32{user.GID}, user.AdditionalGids...)), Remedy: remedy})
	}
	return nil
}

// socketName checks the path to which CRIU binds the socket, after it has deleted a socket that was there. It looks
// for it below the root of the container (criu/sk-unix.c, prep_unix_sk_cwd). Unlike that of a file, it is as the
// process has given it; where it leads is checked with the links.
func (o *openFiles) socketName(f *openFile) error {
	e := f.GetUsk()
	name := string(bytes.TrimSuffix(e.GetName(), []byte{0}))
	if len(e.GetName()) > 108 { // sun_path
		return malformed(filesImage, "socket %d: its name has %d bytes", f.GetId(), len(e.GetName()))
	}
	if name == "" || e.GetName()[0] == 0 { // none, or in the network namespace
		if e.GetDeleted() || e.NameDir != nil {
			return malformed(filesImage, "socket %d: it has a directory and no name", f.GetId())
		}
		return nil
	}
	dir := e.GetNameDir()
	if strings.ContainsRune(name, 0) || path.IsAbs(name) == (dir != "") || dir != "" && (!path.IsAbs(dir) || len(dir) >= maxName || path.Clean(dir) != dir || strings.ContainsRune(dir, 0)) {
		return malformed(filesImage, "socket %d: name %.200q in directory %.200q", f.GetId(), name, dir)
	}
	return nil
}

// unixPeers checks that sockets are connected to sockets which CRIU makes. To any other one
// it would connect by the name, as root: to whoever has that name.
func (o *openFiles) unixPeers() error {
	byInode := map[uint32]*openFile{}
	for _, f := range o.files {
		if f.kind != fdinfo.FdTypes_UNIXSK {
			continue
		}
		if byInode[f.GetUsk().GetIno()] != nil {
			return malformed(filesImage, "there are two sockets with inode %d", f.GetUsk().GetIno())
		}
		byInode[f.GetUsk().GetIno()] = f
	}
	for _, f := range o.files {
		if f.kind != fdinfo.FdTypes_UNIXSK || f.GetUsk().GetPeer() == 0 {
			continue
		}
		e, other := f.GetUsk(), byInode[f.GetUsk().GetPeer()]
		if other == nil || other.GetUsk().GetType() != e.GetType() {
			return malformed(filesImage, "socket %d: its other end, inode %d, is missing", f.GetId(), e.GetPeer())
		}
		p := other.GetUsk()
		if p.GetPeer() == e.GetIno() || p.GetUflags() != 0 {
			continue
		}
		// CRIU waits for it to listen, or to be bound.
		if len(p.GetName()) == 0 || e.GetType() != unix.SOCK_DGRAM && p.GetState() != socketListens {
			return malformed(filesImage, "socket %d: its other end, inode %d, can not be connected to", f.GetId(), e.GetPeer())
		}
	}
	return nil
}

// readQueues reads what was sent and not received, with the descriptors in it.
func (o *openFiles) readQueues() error {
	const image = "sk-queues.img"
	if _, ok := o.images.Size(image); !ok {
		return nil
	}
	return o.images.EachWithData(image, "SK_QUEUES", func(_ int, entry []byte, rest io.Reader) error {
		e := &sk_packet.SkPacketEntry{}
		if err := criu.Decode(entry, e); err != nil {
			return err
		}
		if f := o.byID[e.GetIdFor()]; f == nil || f.kind != fdinfo.FdTypes_UNIXSK {
			return fmt.Errorf("there is no socket %d", e.GetIdFor())
		}
		if len(e.GetScm()) > 1 {
			return fmt.Errorf("a message to socket %d has several control messages", e.GetIdFor())
		}
		for _, scm := range e.GetScm() {
			if scm.GetType() != unix.SCM_RIGHTS || len(scm.GetRights()) > 253 { // SCM_MAX_FD
				return fmt.Errorf("a message to socket %d has a control message of type %d", e.GetIdFor(), scm.GetType())
			}
			for _, id := range scm.GetRights() {
				f := o.byID[id]
				if f == nil {
					return fmt.Errorf("there is no file %d, which is in a message to socket %d", id, e.GetIdFor())
				}
				f.used, f.sent = true, true
			}
		}
		if err := o.step(1 + len(e.GetScm())); err != nil {
			return err
		}
		return skip(rest, e.GetLength())
	})
}
