package verify

import (
	"fmt"

	file_lock "github.com/checkpoint-restore/go-criu/v7/crit/images/file-lock"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// Kinds of locks (CRIU: criu/include/file-lock.h).
const (
	lockPOSIX = 1
	lockFlock = 2
	lockOFD   = 4
	lockLease = 8
)

// locks checks that locks are taken on files which their process has open. CRIU takes them by the number of the descriptor.
func (o *openFiles) locks() error {
	const image = "filelocks.img"
	if _, ok := o.images.Size(image); !ok {
		return nil
	}
	entries, err := criu.Entries[*file_lock.FileLockEntry](o.images, image, "FILE_LOCKS")
	if err != nil {
		return err
	}
	for _, e := range entries {
		f := o.tables[uint32(e.GetPid())][uint32(e.GetFd())]
		if e.GetPid() <= 0 || e.GetFd() < 0 || f == nil {
			return malformed(image, "process %d has no descriptor %d", e.GetPid(), e.GetFd())
		}
		switch e.GetFlag() {
		case lockPOSIX, lockFlock, lockOFD:
		case lockLease:
			if !o.could("CAP_LEASE") {
				o.refuse(Finding{Check: "files", Object: f.String(), Field: "lease", Found: fmt.Sprintf("one of process %d", e.GetPid()),
					Allowed: "none, for lack of CAP_LEASE"})
			}
		default:
			return malformed(image, "a lock of process %d is of unknown kind %d", e.GetPid(), e.GetFlag())
		}
	}
	return nil
}
