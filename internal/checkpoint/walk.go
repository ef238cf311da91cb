package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// maxDepth is how deep directories may be nested. The engines nest two deep;
// the bound keeps the walk of a hostile tree linear in its entries.
const maxDepth = 16

// tree counts what a walk finds.
type tree struct{ entries int }

// walk looks at everything below root and refuses what is neither a directory
// nor a regular file. It keeps no more than the names of directories.
func walk(root *os.Root, l Limits) error {
	var t tree
	dirs := []string{"."}
	for len(dirs) > 0 {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		found, err := t.list(root, dir, l)
		if err != nil {
			return err
		}
		dirs = append(dirs, found...)
	}
	return nil
}

// list looks at the entries of one directory and returns the directories in it.
func (t *tree) list(root *os.Root, dir string, l Limits) ([]string, error) {
	if strings.Count(dir, "/") >= maxDepth {
		return nil, tooDeep(dir)
	}
	f, err := root.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()

	var dirs []string
	for {
		// In parts, because a directory can be larger than memory.
		names, err := f.Readdirnames(512)
		if errors.Is(err, io.EOF) {
			return dirs, nil
		}
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			t.entries++
			if t.entries > l.Entries {
				return nil, exceeds("the checkpoint", "", int64(l.Entries), "entries", keyEntries)
			}
			name = path.Join(dir, name)
			fi, err := root.Lstat(name)
			if err != nil {
				return nil, err
			}
			switch {
			case fi.IsDir():
				dirs = append(dirs, name)
			case fi.Mode().IsRegular():
			default:
				return nil, irregular(name, fi.Mode(), "regular file")
			}
		}
	}
}

func tooDeep(name string) error {
	return fmt.Errorf("%s is nested more than %d directories deep: %w", quote(name), maxDepth, errdefs.ErrInvalidArgument)
}
