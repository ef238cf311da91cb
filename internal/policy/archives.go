package policy

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// IsArchive reports whether an image name of a request is meant as the path of
// an archive: no image reference can begin with a slash.
func IsArchive(image string) bool { return strings.HasPrefix(image, "/") }

// Archive admits an archive path. The directory is the one of the node's configuration below which it has to be, also
// when it is opened; it is empty if it may be anywhere. The error is of class errdefs.ErrPermissionDenied or
// errdefs.ErrInvalidArgument, and is the same whether there is such a file or not.
func (p *Policy) Archive(file string) (dir string, err error) {
	if !p.archives && len(p.dirs) == 0 {
		return "", fmt.Errorf("checkpoint archive %q: archives are not allowed as image names on this node: "+
			"make a checkpoint image of it, or set allow_archives = true: %w", file, errdefs.ErrPermissionDenied)
	}
	if !path.IsAbs(file) || path.Clean(file) != file {
		return "", fmt.Errorf("checkpoint archive %q: not a clean absolute path, which would be %q: %w",
			file, path.Join("/", file), errdefs.ErrInvalidArgument)
	}
	if p.archives {
		return "", nil
	}
	for _, dir := range p.dirs {
		if strings.HasPrefix(file, dir+"/") {
			return dir, nil
		}
	}
	return "", fmt.Errorf("checkpoint archive %q: it is in none of the directories of which archives are allowed "+
		"as image names on this node, %q: move it there, or add its directory to allow_archives: %w",
		file, p.dirs, errdefs.ErrPermissionDenied)
}

func checkDirs(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		if !path.IsAbs(dir) || path.Clean(dir) != dir || dir == "/" {
			errs = append(errs, fmt.Errorf("allow_archives: %q is no clean absolute path of a directory below /", dir))
		}
	}
	return errors.Join(errs...)
}
