package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/errdefs"
)

// maxDepth is how deep directories may be nested. The engines nest two deep;
// the bound keeps the walk of a hostile tree linear in its entries.
const maxDepth = 16

// tree is what a walk finds.
type tree struct {
	entries int
	memory  int64 // bytes in pages-*.img, -1 if the sum overflows
}

// walk looks at everything below root and refuses what is neither a directory
// nor a regular file. It keeps no more than the names of directories.
func walk(root *os.Root, l Limits) (tree, error) {
	var t tree
	dirs := []string{"."}
	for len(dirs) > 0 {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		found, err := t.list(root, dir, l)
		if err != nil {
			return tree{}, err
		}
		dirs = append(dirs, found...)
	}
	return t, nil
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
				t.add(name, fi)
			default:
				return nil, irregular(name, fi.Mode(), "regular file")
			}
		}
	}
}

// add counts the memory in a CRIU image.
func (t *tree) add(name string, fi fs.FileInfo) {
	dir, file := path.Split(name)
	if dir != metadata.CheckpointDirectory+"/" ||
		!strings.HasPrefix(file, metadata.PagesPrefix) || !strings.HasSuffix(file, ".img") || t.memory < 0 {
		return
	}
	if t.memory += fi.Size(); t.memory < 0 {
		t.memory = -1
	}
}

func tooDeep(name string) error {
	return fmt.Errorf("%s is nested more than %d directories deep: %w", quote(name), maxDepth, errdefs.ErrInvalidArgument)
}
