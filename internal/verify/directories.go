package verify

import (
	"errors"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// Directories returns the modes, without the type, that the directories of the root file system had which processes
// have open, are in, or have as their root. Engines do not record all of them: CRI-O and
// Podman leave out changed directories, and give "/" another mode than containerd.
func Directories(images *criu.Images) (map[string]uint32, error) {
	o, err := rootFiles(images)
	if err != nil {
		return nil, err
	}
	modes := map[string]uint32{}
	for _, f := range o.files {
		if mode := f.GetReg().GetMode(); o.inRoot(f) && mode&unix.S_IFMT == unix.S_IFDIR {
			modes[f.GetReg().GetName()] = mode & 0o7777
		}
	}
	return modes, nil
}

// rootFiles reads the open files, and where their mounts are.
func rootFiles(images *criu.Images) (*openFiles, error) {
	v := &verifier{images: images}
	var err error
	if v.processes, err = images.Processes(); err != nil {
		return nil, err
	}
	o := &openFiles{verifier: v, mounts: map[int32]string{}, remapped: map[uint32]bool{}}
	return o, errors.Join(o.readFiles(), o.readMounts())
}

// inRoot says whether a file has a path in the root file system.
func (o *openFiles) inRoot(f *openFile) bool {
	return f.kind == fdinfo.FdTypes_REG && f.GetReg().MntId != nil && o.mounts[f.GetReg().GetMntId()] == "/"
}
