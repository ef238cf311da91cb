package checkpoint

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/containerd/errdefs"
)

// Unpack writes an archive (tar, plain, gzip or zstd, told by content) into
// dst, an existing empty directory that is private to the caller.
//
// archive is an absolute path to a regular file, not a link. Only regular files
// and directories are taken from it. Owners, modes, times and extended
// attributes are not: everything belongs to the caller, files are 0600,
// directories 0700 (CRI-O and Podman record checkpoint/ as 0600). Directories
// without an entry of their own are created. Nothing is written outside dst.
//
// On error dst is emptied again. Errors are of class
// errdefs.ErrInvalidArgument for a malformed archive,
// errdefs.ErrResourceExhausted for one beyond the limits or a full disk,
// errdefs.ErrNotFound if there is no archive, and the context's error if it ends.
func Unpack(ctx context.Context, archive string, dst string, l Limits) error {
	return unpackOnly(ctx, "", archive, dst, l, nil)
}

// UnpackBelow is Unpack for an archive that has to be below a directory, links on the way followed. With an empty
// directory it may be anywhere. The error is of class errdefs.ErrPermissionDenied for one that a link leads to
// elsewhere.
func UnpackBelow(ctx context.Context, dir, archive, dst string, l Limits) error {
	return unpackOnly(ctx, dir, archive, dst, l, nil)
}

// unpackOnly takes only these files, or all if there are none. All are looked at.
func unpackOnly(ctx context.Context, below, archive, dst string, l Limits, only []string) (retErr error) {
	defer func() {
		if retErr != nil {
			retErr = fmt.Errorf("unpack checkpoint archive %s: %w", quote(archive), retErr)
		}
	}()
	src, err := openArchive(below, archive)
	if err != nil {
		return err
	}
	defer src.Close()

	root, err := openEmpty(dst)
	if err != nil {
		return err
	}
	defer root.Close()
	defer func() {
		if retErr != nil {
			if err := empty(root); err != nil {
				retErr = fmt.Errorf("%w (and %s is not empty: %w)", retErr, dst, err)
			}
		}
	}()

	s, err := newStream(ctx, src, bound{"the archive", l.ArchiveBytes, keyArchive}, l.Entries)
	if err != nil {
		return err
	}
	defer s.Close()
	u := unpacker{stream: s, root: root, limits: l, only: only, seen: make(map[[sha256.Size]byte]struct{})}
	if err := u.unpack(s); err != nil {
		return s.explain(err)
	}
	return nil
}

// openEmpty opens the directory to unpack into, and closes it to others:
// memory images hold secrets.
func openEmpty(dst string) (_ *os.Root, retErr error) {
	fi, err := os.Lstat(dst)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() || !filepath.IsAbs(dst) {
		return nil, fmt.Errorf("destination %s is not a directory with an absolute path: %w", quote(dst),
			errdefs.ErrInvalidArgument)
	}
	root, err := os.OpenRoot(dst)
	if err != nil {
		return nil, err
	}
	defer func() {
		if retErr != nil {
			root.Close()
		}
	}()
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("destination %s is not empty: %w", dst, errdefs.ErrFailedPrecondition)
		}
		return nil, err
	}
	if err := f.Chmod(0o700); err != nil {
		return nil, err
	}
	return root, nil
}

// empty removes everything below root.
func empty(root *os.Root) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	for _, name := range names {
		err = errors.Join(err, root.RemoveAll(name))
	}
	return err
}

// unpacker writes the entries of one archive.
type unpacker struct {
	stream  *stream
	root    *os.Root
	limits  Limits
	plain   *plain                         // of an archive that is not compressed, else nil
	only    []string                       // the files that are written, nil for all
	entries int                            // files and directories created
	bytes   int64                          // sum of the entries' sizes
	seen    map[[sha256.Size]byte]struct{} // hashes of clean names: names can be long
}

func (u *unpacker) unpack(s *stream) error {
	var src io.Reader = s
	if s.plain {
		// Not through the buffer, so that the file is where archive/tar is.
		s.reader = s.source
		u.plain = &plain{s}
		src = u.plain
	}
	tr := tar.NewReader(src)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			// Read on to the end, where checksums are.
			_, err = io.Copy(io.Discard, s)
			return err
		}
		if err != nil {
			return err
		}
		if err := u.entry(hdr, tr); err != nil {
			return err
		}
	}
}

func (u *unpacker) entry(hdr *tar.Header, content io.Reader) error {
	dir := hdr.Typeflag == tar.TypeDir
	switch hdr.Typeflag {
	case tar.TypeDir, tar.TypeReg, tar.TypeGNUSparse:
	default:
		return unexpected(hdr.Name, kindOf(hdr.Typeflag))
	}
	name, err := entryName(hdr.Name, dir)
	if err != nil {
		return err
	}
	key := sha256.Sum256([]byte(name))
	if _, ok := u.seen[key]; ok {
		return fmt.Errorf("entry %s is there twice: %w", quote(hdr.Name), errdefs.ErrInvalidArgument)
	}
	u.seen[key] = struct{}{}

	if dir {
		return u.mkdir(name)
	}
	if err := u.count(); err != nil {
		return err
	}
	// For a sparse file this is the size of the file, not of what is stored.
	if hdr.Size > u.limits.ArchiveBytes-u.bytes {
		return exceeds("the archive", "", u.limits.ArchiveBytes, "bytes", keyArchive)
	}
	u.bytes += hdr.Size
	if u.only != nil && !slices.Contains(u.only, name) {
		return nil
	}
	if err := u.mkdir(path.Dir(name)); err != nil {
		return err
	}
	return u.write(name, hdr, content)
}

func (u *unpacker) count() error {
	if u.entries++; u.entries > u.limits.Entries {
		return exceeds("the archive", "", int64(u.limits.Entries), "entries", keyEntries)
	}
	return nil
}

// mkdir creates a directory and those above it, and counts what it creates.
func (u *unpacker) mkdir(name string) error {
	if name == "." {
		return nil
	}
	err := u.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err := u.mkdir(path.Dir(name)); err != nil {
			return err
		}
		err = u.root.Mkdir(name, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		fi, err := u.root.Lstat(name)
		if err == nil && !fi.IsDir() {
			err = clash(name)
		}
		return err
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return clash(name)
	}
	if err != nil {
		return err
	}
	return u.count()
}

func clash(name string) error {
	return fmt.Errorf("entry %s: a file and a directory have the same name: %w", quote(name), errdefs.ErrInvalidArgument)
}

func (u *unpacker) write(name string, hdr *tar.Header, content io.Reader) (retErr error) {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return clash(name)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err := f.Close(); retErr == nil {
			retErr = err
		}
	}()
	if u.plain != nil {
		if done, err := u.plain.copy(f, hdr, content); done || err != nil {
			return err
		}
	}
	return u.copy(f, hdr.Size, content)
}

func kindOf(typeflag byte) string {
	switch typeflag {
	case tar.TypeLink:
		return "hard link"
	case tar.TypeSymlink:
		return "symbolic link"
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	case tar.TypeFifo:
		return "FIFO"
	}
	return fmt.Sprintf("tar entry of type %q", typeflag)
}
