package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/regular"
)

// openArchive opens the archive itself, which is below a directory if one is given. Errors as [UnpackBelow].
func openArchive(below, name string) (*os.File, error) {
	if !filepath.IsAbs(name) {
		return nil, fmt.Errorf("not an absolute path: %w", errdefs.ErrInvalidArgument)
	}
	if below == "" {
		f, _, err := regular.Open(name)
		return f, err
	}
	root, err := os.OpenRoot(below)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	rest := strings.TrimPrefix(name, below+"/")
	f, _, err := regular.OpenIn(root, rest)
	if err != nil && leaves(below, rest) {
		return nil, fmt.Errorf("a link leads out of %s: %w", below, errdefs.ErrPermissionDenied)
	}
	return f, err
}

// leaves says whether a link leads out of a directory, which os.Root refuses with an error that has no name.
func leaves(dir, name string) bool {
	at, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer at.Close()
	fd, err := unix.Openat2(int(at.Fd()), name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH,
	})
	if err == nil {
		unix.Close(fd)
	}
	return errors.Is(err, unix.EXDEV)
}
