package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"sigs.k8s.io/json"
)

// openRoot opens the directory that holds a checkpoint.
func openRoot(dir string) (*os.Root, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("checkpoint %s: not an absolute path: %w", quote(dir), errdefs.ErrInvalidArgument)
	}
	// Look before opening: opening a FIFO would block.
	fi, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("checkpoint %s: %w: %w", dir, err, errdefs.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("checkpoint %s: %w", dir, err)
	case !fi.IsDir():
		return nil, fmt.Errorf("checkpoint %s: not a directory: %w", dir, errdefs.ErrInvalidArgument)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("checkpoint %s: %w", dir, err)
	}
	return root, nil
}

// openRegular opens a regular file below root for reading and returns its size.
// Every element of the name is looked at before it is used, so that no link is
// followed and nothing else is opened: opening a FIFO blocks, opening a device
// can act on it. The error is of class errdefs.ErrNotFound if there is no such
// file, errdefs.ErrInvalidArgument if it is something else.
func openRegular(root *os.Root, name string) (*os.File, int64, error) {
	var seen fs.FileInfo
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		fi, err := root.Lstat(name[:i])
		if errors.Is(err, fs.ErrNotExist) {
			return nil, 0, fmt.Errorf("%s: %w: %w", name, errdefs.ErrNotFound, fs.ErrNotExist)
		}
		if err != nil {
			return nil, 0, err
		}
		if i < len(name) && !fi.IsDir() {
			return nil, 0, irregular(name[:i], fi.Mode(), "directory")
		}
		if i == len(name) && !fi.Mode().IsRegular() {
			return nil, 0, irregular(name, fi.Mode(), "regular file")
		}
		seen = fi
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	if !os.SameFile(seen, fi) || !fi.Mode().IsRegular() {
		f.Close()
		return nil, 0, fmt.Errorf("%s was replaced while it was opened: %w", name, errdefs.ErrInvalidArgument)
	}
	return f, fi.Size(), nil
}

// readJSON parses a file into v: one JSON value, names compared with case, no
// name twice in an object that v knows. Names that v does not know are ignored:
// newer engines add some. Errors as openRegular, and
// errdefs.ErrResourceExhausted.
func readJSON(root *os.Root, name string, l Limits, v any) error {
	limit := l.MetadataBytes
	f, size, err := openRegular(root, name)
	if err != nil {
		return err
	}
	defer f.Close()
	if size > limit {
		return exceeds(name, fmt.Sprint(size), limit, "bytes", keyMetadata)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return exceeds(name, "", limit, "bytes", keyMetadata)
	}
	// Three bytes of JSON, such as "{},", can become a struct of a hundred.
	if values := bytes.Count(data, []byte(",")); values > l.Entries {
		return exceeds(name, fmt.Sprint(values), int64(l.Entries), "values", keyEntries)
	}
	strict, err := json.UnmarshalStrict(data, v, json.DisallowDuplicateFields)
	if err == nil {
		err = errors.Join(strict...)
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", name, clip(err.Error()), errdefs.ErrInvalidArgument)
	}
	return nil
}

// irregular is the error for something in the place of a directory or a regular
// file, whichever is wanted.
func irregular(name string, mode fs.FileMode, want string) error {
	kind := "special file"
	switch mode.Type() {
	case 0:
		return fmt.Errorf("%s is a regular file and should be a %s: %w", quote(name), want, errdefs.ErrInvalidArgument)
	case fs.ModeDir:
		return fmt.Errorf("%s is a directory and should be a %s: %w", quote(name), want, errdefs.ErrInvalidArgument)
	case fs.ModeSymlink:
		kind = "symbolic link"
	case fs.ModeNamedPipe:
		kind = "FIFO"
	case fs.ModeSocket:
		kind = "socket"
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		kind = "device"
	}
	return unexpected(name, kind)
}

// preCheckpointDirectory holds memory that Podman dumped before (--pre-checkpoint);
// "checkpoint/parent" of a later dump (--with-previous) is a link to it.
const preCheckpointDirectory = "pre-checkpoint"

// unexpected is the error for an entry of the wrong kind.
func unexpected(name, kind string) error {
	if path.Base(name) == "parent" && strings.HasSuffix(kind, "link") {
		return fmt.Errorf("%s is a %s to an earlier dump: incremental checkpoints are not supported, "+
			"take a full one, without --with-previous: %w", quote(name), kind, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("%s is a %s: a checkpoint holds only directories and regular files: %w",
		quote(name), kind, errdefs.ErrInvalidArgument)
}

// maxQuote bounds what of a stranger's text gets into a message.
const maxQuote = 200

func quote(s string) string { return fmt.Sprintf("%q", clip(s)) }

func clip(s string) string {
	if len(s) <= maxQuote {
		return s
	}
	return strings.ToValidUTF8(s[:maxQuote], "") + "..."
}
