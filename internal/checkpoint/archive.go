package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"golang.org/x/sys/unix"
)

const (
	// maxHead bounds what is written before the pages, and is held in memory meanwhile, in bytes.
	maxHead = 16 << 20
	// maxHeadFile is the size of the largest file that is written before the pages, in bytes.
	maxHeadFile = 1 << 20
	// pagesPrefix is what the names of CRIU's images of pages begin with (CRIU: criu/image-desc.c).
	pagesPrefix = "pages-"
	// copyBuffer is the size of the buffer for files, in bytes.
	copyBuffer = 1 << 20
)

// WriteArchive makes the plain tar file, which must not exist, of the checkpoint in dir, on the same file system. Both
// belong to the caller alone. It returns how many bytes of the archive were not written but are those that CRIU wrote:
// the largest of its images of pages becomes the archive, with what comes before it inserted at its front, where the
// file system can do that (fallocate(2), FALLOC_FL_INSERT_RANGE: ext4, xfs); it is then no longer in dir. The small
// files come first, so that who wants to know only what the archive holds need not read it all.
func WriteArchive(ctx context.Context, dir, file string) (inPlace int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	files, err := listFiles(dir)
	if err != nil {
		return 0, err
	}
	w := &archiveWriter{ctx: ctx, dir: dir, at: time.Now().Truncate(time.Second)}
	pages := largestPages(files)
	if pages != nil {
		if w.f, err = w.insert(files, pages, file); err != nil {
			return 0, err
		}
	}
	if w.f == nil {
		if w.f, err = os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
			return 0, err
		}
	} else {
		inPlace = pages.size
	}
	defer func() { err = errors.Join(err, w.f.Close()) }()
	tw := tar.NewWriter(w.f)
	for _, f := range files {
		if f.done {
			continue
		}
		if err := w.entry(tw, f); err != nil {
			return 0, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return 0, err
	}
	return inPlace, w.f.Sync()
}

// archiveFile is one entry to be.
type archiveFile struct {
	name string // relative, with slashes
	dir  bool
	size int64
	done bool // it is in the archive
}

// listFiles lists what is in the tree, the small files first.
func listFiles(dir string) ([]*archiveFile, error) {
	var small, large []*archiveFile
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		f := &archiveFile{name: filepath.ToSlash(strings.TrimPrefix(name, dir+"/")), dir: fi.IsDir()}
		switch {
		case f.dir:
		case fi.Mode().IsRegular():
			f.size = fi.Size()
		default:
			return irregular(f.name, fi.Mode(), "regular file")
		}
		if f.size <= maxHeadFile {
			small = append(small, f)
		} else {
			large = append(large, f)
		}
		return nil
	})
	return append(small, large...), err
}

// largestPages returns the largest of CRIU's images of pages, which is most of many checkpoints.
func largestPages(files []*archiveFile) *archiveFile {
	var found *archiveFile
	for _, f := range files {
		if strings.HasPrefix(f.name, metadata.CheckpointDirectory+"/"+pagesPrefix) && f.size > 0 &&
			(found == nil || f.size > found.size) {
			found = f
		}
	}
	return found
}

type archiveWriter struct {
	ctx context.Context
	dir string
	at  time.Time
	f   *os.File
}

func (w *archiveWriter) header(f *archiveFile) *tar.Header {
	if f.dir {
		return &tar.Header{Typeflag: tar.TypeDir, Name: f.name + "/", Mode: 0o700, ModTime: w.at}
	}
	return &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o600, Size: f.size, ModTime: w.at}
}

func (w *archiveWriter) entry(tw *tar.Writer, f *archiveFile) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	f.done = true
	if err := tw.WriteHeader(w.header(f)); err != nil || f.dir {
		return err
	}
	src, err := os.OpenFile(filepath.Join(w.dir, f.name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	for left := f.size; left > 0; {
		// In parts, to look at the context between them.
		n, err := io.CopyBuffer(struct{ io.Writer }{tw}, struct{ io.Reader }{io.LimitReader(src, min(left, copyBuffer))},
			make([]byte, copyBuffer))
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err = errors.Join(err, w.ctx.Err()); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// insert makes the file of pages the archive, with small files before it, and returns it, open and at its end. It
// returns nil and leaves all as it was where the file system cannot insert.
func (w *archiveWriter) insert(files []*archiveFile, pages *archiveFile, file string) (_ *os.File, err error) {
	source := filepath.Join(w.dir, pages.name)
	f, err := os.OpenFile(source, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var written []*archiveFile
	defer func() {
		if err != nil || written == nil {
			f.Close()
			for _, g := range written {
				g.done = false
			}
		}
	}()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	var head bytes.Buffer
	tw := tar.NewWriter(&head)
	for _, g := range files {
		if g == pages || g.size > maxHeadFile || int64(head.Len())+g.size > maxHead {
			continue
		}
		if err := w.entry(tw, g); err != nil {
			return nil, fmt.Errorf("%s: %w", g.name, err)
		}
		written = append(written, g)
	}
	if err := tw.Flush(); err != nil {
		return nil, err
	}
	aligned, err := alignedHeader(w.header(pages), int64(head.Len()), st.Bsize)
	if err != nil {
		return nil, err
	}
	head.Write(aligned)
	if aligned == nil || unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_INSERT_RANGE, 0, int64(head.Len())) != nil {
		for _, g := range written {
			g.done = false
		}
		written = nil
		return nil, nil
	}
	pages.done = true
	written = append(written, pages)
	if _, err := f.WriteAt(head.Bytes(), 0); err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chmod(0o600), os.Rename(source, file)); err != nil {
		return nil, err
	}
	_, err = f.Seek(0, io.SeekEnd)
	if rest := pages.size % 512; err == nil && rest > 0 {
		_, err = f.Write(make([]byte, 512-rest)) // CRIU writes whole pages
	}
	return f, err
}

// alignedHeader returns the header in a form that ends, if it begins at offset, at a multiple of align: with a
// comment of spaces, which readers of tar ignore (POSIX pax, keyword "comment"). It returns nil if there is none.
func alignedHeader(h *tar.Header, offset, align int64) ([]byte, error) {
	for n := 0; int64(n) < 4*align; n += 256 {
		if n > 0 {
			h.Format, h.PAXRecords = tar.FormatPAX, map[string]string{"comment": strings.Repeat(" ", n)}
		}
		var buf bytes.Buffer
		if err := tar.NewWriter(&buf).WriteHeader(h); err != nil {
			return nil, err
		}
		if (offset+int64(buf.Len()))%align == 0 {
			return buf.Bytes(), nil
		}
	}
	return nil, nil
}
