package restore

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// SetModes gives directories of the root file system, which is mounted at root, the modes that they
// had. Those that are not there are for others to complain of. No link is followed.
func SetModes(root string, modes map[string]uint32) error {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	defer dir.Close()
	for name, mode := range modes {
		if name = strings.TrimPrefix(name, "/"); name == "" {
			name = "."
		}
		// os.Root follows links inside the root, whatever the flags.
		if fi, err := dir.Lstat(name); err != nil || !fi.IsDir() {
			continue
		}
		f, err := dir.OpenFile(name, unix.O_DIRECTORY|os.O_RDONLY, 0)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Mode&0o7777 != mode {
			err = unix.Fchmod(int(f.Fd()), mode)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("mode of directory %.200q: %w", "/"+name, err)
		}
	}
	return nil
}
