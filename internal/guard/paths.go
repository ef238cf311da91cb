package guard

import (
	"path/filepath"
)

// pathsFile has the paths. They may be many, and are looked at once.
const pathsFile = "paths.json"

// Paths are what the images that CRIU reads say of files which somebody else could exchange, or which it makes: as it
// will read them, whatever the verification has found.
type Paths struct {
	// Files are regular files that are open, or mapped.
	Files []File `json:"files,omitempty"`
	// Deleted are files that were deleted: CRIU makes them anew, or opens another link to them, which it removes.
	Deleted []Deleted `json:"deleted,omitempty"`
}

// File is a path in a mount.
type File struct {
	// Mount is the ID of the mount in the images, At where it is mounted, Name the path: both as the images have them.
	Mount int32  `json:"mount"`
	At    string `json:"at"`
	Name  string `json:"name"`
}

// Deleted is a deleted file, or the link to one.
type Deleted struct {
	File
	// Linked says that it is opened by another link, of which File is the path; otherwise CRIU makes it.
	Linked bool `json:"linked,omitempty"`
	// Mode, UID and GID are what CRIU gives it.
	Mode uint32 `json:"mode,omitempty"`
	UID  uint32 `json:"uid,omitempty"`
	GID  uint32 `json:"gid,omitempty"`
}

func loadPaths(dir string) (*Paths, error) {
	var p Paths
	if err := read(filepath.Join(dir, pathsFile), &p); err != nil {
		return nil, err
	}
	return &p, nil
}
