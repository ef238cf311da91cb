// Package checkpoint says what a checkpoint is: the files that containerd,
// CRI-O and Podman write, in an archive or in an image. It opens and reads
// them within limits. Everything in a checkpoint is data from a stranger.
package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Files below the checkpoint directory. The first is CRIU's, the second is
// written and read by runc and crun (libcontainer/criu_linux.go).
const (
	inventoryFile   = metadata.CheckpointDirectory + "/inventory.img"
	descriptorsFile = metadata.CheckpointDirectory + "/descriptors.json"
)

// Metadata is what a checkpoint says of itself. It is parsed and compared,
// never used to grant anything. Its short strings hold no control characters.
type Metadata struct {
	// Engine took the checkpoint.
	Engine Engine
	// ID and Name of the container that was checkpointed.
	ID, Name string
	// Base is the image that container was created from.
	Base BaseImage
	// Runtime is the engine's name of the OCI runtime that dumped the container.
	Runtime string
	// CreatedAt is when the container was created, CheckpointedAt when the
	// checkpoint was taken: zero if unknown, which for Podman is always so.
	CreatedAt, CheckpointedAt time.Time
	// Spec is the OCI spec of that container. Spec.Process, Spec.Root and
	// Spec.Linux are never nil.
	Spec *specs.Spec
	// EngineMounts are the paths at which the engine mounts files of its own, which no pod asks for. The
	// spec says whether it did.
	EngineMounts []string
	// Binds says of bind mounts, by their path in the container, whether they were directories. Only CRI-O
	// records it.
	Binds map[string]bool
	// Stdio says what the descriptors 0, 1 and 2 of its init were, at most three
	// entries ("pipe:[4711]", "/dev/null").
	Stdio []string
}

// Checkpoint is an open checkpoint: a directory in the layout of the engines'
// archives.
type Checkpoint struct {
	Metadata Metadata

	dir    string
	root   *os.Root
	limits Limits
	format format
}

// Found says whether dir holds a checkpoint at all: config.dump, spec.dump and
// checkpoint/inventory.img exist. They may be of any type; [Open] insists that
// they are regular files, so that a malicious checkpoint is refused with a
// reason and not taken for something else.
func Found(dir string) (bool, error) {
	root, err := openRoot(dir)
	if err != nil {
		return false, err
	}
	defer root.Close()

	for _, name := range []string{metadata.ConfigDumpFile, metadata.SpecDumpFile, metadata.CheckpointDirectory} {
		fi, err := root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		// Do not look below something that is no directory: Open will explain.
		if name == metadata.CheckpointDirectory && !fi.IsDir() {
			return true, nil
		}
	}
	_, err = root.Lstat(inventoryFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, nil
}

// Open reads the metadata of an unpacked checkpoint: a mounted image or an
// unpacked archive. The tree may hold only directories and regular files; no
// link is followed, no FIFO or device opened, nothing unbounded read. dir must
// be an absolute path and private to the caller or read-only.
//
// Errors are of class errdefs.ErrInvalidArgument for a malformed checkpoint,
// errdefs.ErrResourceExhausted for one beyond the limits, and
// errdefs.ErrNotFound if there is no such directory. They name the file and
// what is wrong with it; which checkpoint it is the caller knows better than by
// its directory.
func Open(dir string, l Limits) (_ *Checkpoint, retErr error) {
	root, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{dir: dir, root: root, limits: l}
	defer func() {
		if retErr != nil {
			root.Close()
		}
	}()

	if err := walk(root, l); err != nil {
		return nil, err
	}
	if err := c.complete(); err != nil {
		return nil, err
	}
	if err := c.readMetadata(); err != nil {
		return nil, err
	}
	return c, nil
}

// complete checks that what every engine writes is there.
func (c *Checkpoint) complete() error {
	fi, err := c.root.Lstat(metadata.CheckpointDirectory)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := c.root.Lstat(preCheckpointDirectory); err == nil {
			return fmt.Errorf("this is a pre-checkpoint, which holds memory only: "+
				"take a full checkpoint, without --pre-checkpoint: %w", errdefs.ErrInvalidArgument)
		}
	}
	if err == nil && !fi.IsDir() {
		return irregular(metadata.CheckpointDirectory, fi.Mode(), "directory")
	}
	for _, name := range []string{metadata.ConfigDumpFile, metadata.SpecDumpFile, inventoryFile, descriptorsFile} {
		fi, err := c.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is missing: not a whole checkpoint, take it again: %w", name, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() {
			return irregular(name, fi.Mode(), "regular file")
		}
	}
	return nil
}

// Close releases the directory. Files that were opened stay open.
func (c *Checkpoint) Close() error { return c.root.Close() }

// Limits are those with which it was opened.
func (c *Checkpoint) Limits() Limits { return c.limits }

// Dir is the directory that was opened.
func (c *Checkpoint) Dir() string { return c.dir }

// ImagesDir is the directory with the CRIU images.
func (c *Checkpoint) ImagesDir() string {
	return filepath.Join(c.dir, metadata.CheckpointDirectory)
}

// OpenLog opens the log of the checkpointed container. The error is of class
// errdefs.ErrNotFound if the engine recorded none.
func (c *Checkpoint) OpenLog() (*os.File, error) {
	return c.open(c.format.log(), c.limits.LogBytes, keyLog)
}

// OpenRootfsDiff opens the changes to the root file system as a plain tar,
// decompressed while it is read, within Limits.DiffBytes. Reads end with the
// context. The error is of class errdefs.ErrNotFound if there are none.
func (c *Checkpoint) OpenRootfsDiff(ctx context.Context) (*Diff, error) {
	return c.openDiff(ctx, metadata.RootFsDiffTar, c.format.whiteouts())
}

// OpenShm is OpenRootfsDiff for the files of /dev/shm, which Podman saves where the container had its own.
func (c *Checkpoint) OpenShm(ctx context.Context) (*Diff, error) {
	return c.openDiff(ctx, metadata.DevShmCheckpointTar, false)
}

func (c *Checkpoint) openDiff(ctx context.Context, name string, whiteouts bool) (*Diff, error) {
	f, err := c.open(name, c.limits.DiffBytes, keyDiff)
	if err != nil {
		return nil, err
	}
	s, err := newStream(ctx, f, bound{name, c.limits.DiffBytes, keyDiff}, c.limits.Entries)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return &Diff{Whiteouts: whiteouts, name: name, stream: s, file: f}, nil
}

// Diff is a tar of changes to a root file system.
type Diff struct {
	// Whiteouts says whether entries with names that begin with ".wh." delete something, as in layers of OCI images
	// (image-spec: layer.md). Otherwise they are files of that name.
	Whiteouts bool

	name   string
	stream *stream
	file   *os.File
}

// Name is the name of the tar in the checkpoint.
func (d *Diff) Name() string { return d.name }

// Read reads the tar, decompressed.
func (d *Diff) Read(p []byte) (int, error) { return d.stream.Read(p) }

// Explain gives an error that came of reading the tar its class, as for Unpack.
func (d *Diff) Explain(err error) error { return d.stream.explain(err) }

// Close ends the reading.
func (d *Diff) Close() error {
	d.stream.Close()
	return d.file.Close()
}

func (c *Checkpoint) open(name string, limit int64, key string) (*os.File, error) {
	f, size, err := openRegular(c.root, name)
	if err != nil {
		return nil, err
	}
	if size > limit {
		f.Close()
		return nil, exceeds(name, fmt.Sprint(size), limit, "bytes", key)
	}
	return f, nil
}

// DeletedFiles returns what the container deleted from its base image, as clean
// absolute paths in the container. CRI-O and Podman write it; containerd has
// whiteouts in the rootfs diff instead. nil if there is no such file.
func (c *Checkpoint) DeletedFiles() ([]string, error) {
	var files []string
	err := readJSON(c.root, metadata.DeletedFilesFile, c.limits, &files)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(files) > c.limits.Entries {
		return nil, exceeds(metadata.DeletedFilesFile, fmt.Sprint(len(files)), int64(c.limits.Entries), "entries", keyEntries)
	}
	for i, name := range files {
		if err := checkDeleted(name); err != nil {
			return nil, fmt.Errorf("%s: entry %d, %s: %w", metadata.DeletedFilesFile, i, quote(name), err)
		}
		files[i] = path.Clean(name)
	}
	return files, nil
}
