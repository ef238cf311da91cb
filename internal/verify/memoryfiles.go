package verify

import (
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/memfd"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

const memfdImage = "memfd.img"

// memfdMode is a field that CRIU 4.2 writes and go-criu does not know.
const memfdMode = 9

// memoryFiles checks files that are only in memory (memfd_create(2)). Their pages are counted with the other ones.
func (o *openFiles) memoryFiles() error {
	inodes := map[uint64]bool{}
	if _, ok := o.images.Size(memfdImage); ok {
		entries, err := criu.Entries[*memfd.MemfdInodeEntry](o.images, memfdImage, "MEMFD_INODE")
		if err != nil {
			return err
		}
		for _, e := range entries {
			if inodes[e.GetInodeId()] {
				return malformed(memfdImage, "there are two files %d", e.GetInodeId())
			}
			inodes[e.GetInodeId()] = true
			if err := o.memoryFile(e); err != nil {
				return err
			}
		}
	}
	for _, f := range o.files {
		if f.kind == fdinfo.FdTypes_MEMFD && !inodes[uint64(f.GetMemfd().GetInodeId())] {
			return malformed(memfdImage, "there is no file %d", f.GetMemfd().GetInodeId())
		}
	}
	return nil
}

func (o *openFiles) memoryFile(e *memfd.MemfdInodeEntry) error {
	const (
		huge  = unix.MFD_HUGETLB | unix.MFD_HUGE_MASK<<unix.MFD_HUGE_SHIFT
		seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_FUTURE_WRITE | unix.F_SEAL_EXEC
	)
	if h := e.GetHugetlbFlag(); h&^uint32(huge&0xffffffff) != 0 || e.GetSeals()&^seals != 0 || e.GetSize() > 1<<47 {
		return malformed(memfdImage, "file %d: flags %#x, seals %#x, %d bytes", e.GetInodeId(), h, e.GetSeals(), e.GetSize())
	}
	modes, err := criu.Varints(e, memfdMode)
	if err != nil {
		return malformed(memfdImage, "file %d: %v", e.GetInodeId(), err)
	}
	for _, mode := range modes {
		if mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
			o.refuse(Finding{Check: "files", Object: fmt.Sprintf("memfd %s", e.GetName()), Field: "mode", Found: fmt.Sprintf("%#o", mode),
				Allowed: "no set-user-ID or set-group-ID: CRIU would make it for any user"})
		}
	}
	return nil
}
