package verify

import (
	"fmt"
	"path"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// Directories returns the modes, without the type, that the directories of the root file system had which processes
// have open, are in, or have as their root. Engines do not record all of them: CRI-O and
// Podman leave out changed directories, and give "/" another mode than containerd.
func Directories(images *criu.Images) (map[string]uint32, error) {
	processes, err := images.Processes()
	if err != nil {
		return nil, err
	}
	ids, err := images.IDs(processes[0].GetPid())
	if err != nil {
		return nil, err
	}
	mounts, err := criu.Entries[*mnt.MntEntry](images, fmt.Sprintf("mountpoints-%d.img", ids.GetMntNsId()), "MNTS")
	if err != nil {
		return nil, err
	}
	files, err := criu.Entries[*fdinfo.FileEntry](images, filesImage, "FILES")
	if err != nil {
		return nil, err
	}
	root := map[uint32]bool{}
	for _, e := range mounts {
		root[e.GetMntId()] = path.Clean("/"+e.GetMountpoint()) == "/"
	}
	modes := map[string]uint32{}
	for _, f := range files {
		r := f.GetReg()
		if r.GetMode()&unix.S_IFMT == unix.S_IFDIR && r.MntId != nil && root[uint32(r.GetMntId())] {
			modes[r.GetName()] = r.GetMode() & 0o7777
		}
	}
	return modes, nil
}
